"""What a running stage is given: its context, its curves, rounds of batches, kept samples."""
