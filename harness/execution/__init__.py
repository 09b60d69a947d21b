"""Runs one stage: attempts, failures and the artifact that is left."""
