"""Runs one stage: its attempts, their failures, and the artifact that it publishes."""
