"""How figures become files: one column and two wide, every format, equal bytes for equal data."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from analysis.figures.column import COLUMN_INCH, TWO_COLUMNS_INCH
from analysis.figures.marks import figure_style
from analysis.table.atomic import replacing

WIDE = ".wide"
FILES = {COLUMN_INCH: (".png", ".svg", ".pdf"), TWO_COLUMNS_INCH: (f"{WIDE}.png", f"{WIDE}.pdf")}
"""Width of a figure, inches: ends of the names of its files."""
ENDS = tuple(end for ends in FILES.values() for end in ends)
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def save_figure(draw: Callable[[float], Figure], out_dir: Path, name: str) -> list[Path]:
    """Draws a figure for one column of a paper and for two, and saves both in every format.

    All is done under `figure_style` and nothing else: a user's matplotlibrc (LaTeX text,
    resolution, fonts) changes no figure and breaks none. Files have neither dates nor random names.
    """
    paths = []
    with mpl.rc_context(), warnings.catch_warnings():
        # Settings of a user's file that are deprecated would warn when they are replaced.
        warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
        mpl.rcParams.update(figure_style())
        for width_inch, ends in FILES.items():
            figure = draw(width_inch)
            for end in ends:
                paths.append(out_dir / f"{name}{end}")
                suffix = paths[-1].suffix[1:]
                with replacing(paths[-1]) as temporary:
                    figure.savefig(temporary, format=suffix, metadata=METADATA[suffix])
    return paths
