"""What `python -m harness.bench` measures, part by part."""
