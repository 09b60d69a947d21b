"""The kinds of work: one module a kind, each with its configuration and its `run` function."""
