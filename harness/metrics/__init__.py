"""Metrics: feature networks, accumulators that merge over workers, and the distances they give."""
