"""What people read before, during and after a run."""
