"""Statistics of cells: intervals, fronts, gains, slopes and effects."""
