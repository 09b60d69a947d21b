"""The results table as the analysis reads it: columns, measures, protocols, published numbers."""
