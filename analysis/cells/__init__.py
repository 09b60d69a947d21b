"""Rows that differ in seeds alone, as one cell, and which cells make a line."""
