"""What is computed of cells: intervals, fronts, gains, slopes and effects."""
