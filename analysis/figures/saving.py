"""How figures become files: every format, the same bytes for the same data."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from analysis.table.atomic import replacing

SUFFIXES = ("png", "svg", "pdf")
REPRODUCIBLE_STYLE: dict[RcKeyType, Any] = {"svg.hashsalt": "latent-frontier", "pdf.fonttype": 42}
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def save_figure(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """Saves a figure in every format, without dates or random names, so equal data gives it."""
    paths = [out_dir / f"{name}.{suffix}" for suffix in SUFFIXES]
    with mpl.rc_context(REPRODUCIBLE_STYLE):
        for path, suffix in zip(paths, SUFFIXES, strict=True):
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix, metadata=METADATA[suffix])
    return paths
