"""Encoded data sets: shards, folders in the published layout, and what a generator reads."""
