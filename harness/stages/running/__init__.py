"""Services for running stages: context, curves, rounds of batches, kept samples."""
