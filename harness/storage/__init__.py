"""Artifacts, checkpoints and leases: files that are whole or absent, and survive a kill."""
