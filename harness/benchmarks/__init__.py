"""Measurements of `python -m harness.bench`, part by part."""
