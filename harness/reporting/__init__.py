"""Text for people before, during and after a run."""
