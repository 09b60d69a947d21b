"""From a results table to the frontier: statistics, figures and words; reads tables only."""
