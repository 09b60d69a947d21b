"""Data sets of encoded images in files: folders, Parquet, tar shards, the hub's cache."""
