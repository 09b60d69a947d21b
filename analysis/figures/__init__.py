"""Figures, each as `compute(table) -> data` and `draw(data) -> Figure`."""
