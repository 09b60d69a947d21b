"""From a sweep to its stages without duplicates, what they cost and what they lack."""
