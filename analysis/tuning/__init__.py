"""A search's trials and their figures."""
