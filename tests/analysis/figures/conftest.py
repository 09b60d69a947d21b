"""Figures are drawn under their own style, as `save_figure` does."""

from collections.abc import Iterator

import matplotlib as mpl
import pytest

from analysis.figures.marks import figure_style


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """Own settings during a test."""
    with mpl.rc_context(figure_style()):
        yield
