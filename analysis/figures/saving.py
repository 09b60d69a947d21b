"""How figures become files: every format, the same bytes for the same data."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from analysis.table.atomic import replacing

SUFFIXES = ("png", "svg", "pdf")
REPRODUCIBLE_STYLE: dict[RcKeyType, Any] = {"svg.hashsalt": "latent-frontier", "pdf.fonttype": 42}
NO_STYLE = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def save_figure(draw: Callable[[], Figure], out_dir: Path, name: str) -> list[Path]:
    """Draws a figure and saves it in every format, without dates or random names.

    Both are done under matplotlib's defaults and nothing else: a user's matplotlibrc (LaTeX text,
    resolution, fonts) changes no figure and breaks none, and equal data gives equal files.

    Args:
        draw: Makes the figure.
        out_dir: Where its files go.
        name: Their name without the suffix.

    Returns:
        The files.
    """
    paths = [out_dir / f"{name}.{suffix}" for suffix in SUFFIXES]
    with mpl.rc_context(), warnings.catch_warnings():
        # Settings of a user's file that are deprecated would warn when they are replaced.
        warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
        mpl.rcParams.update({**defaults(), **REPRODUCIBLE_STYLE})
        figure = draw()
        for path, suffix in zip(paths, SUFFIXES, strict=True):
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix, metadata=METADATA[suffix])
    return paths


def defaults() -> dict[RcKeyType, Any]:
    """Matplotlib's own settings but for the backend, which a figure with a canvas needs not."""
    return {name: value for name, value in mpl.rcParamsDefault.items() if name not in NO_STYLE}
