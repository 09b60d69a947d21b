"""Published numbers, and which of them may stand beside measured ones.

`data/paper_numbers.csv` holds numbers of papers, their code and their users, each with its source
and a note on its protocol. Only numbers of the data set, resolution, number of images, distance
and guidance of a figure are laid over it; the rest is told with its reason.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from analysis.table.protocols import join_unique

DATASET, RESOLUTION, DISTANCE = "ImageNet", 256, "FID"
"""Data and networks behind every number of the file, as its sources say."""
IMAGENET_NAMES = ("imagenet", "imagenet1k", "imagenet256", "imagenet2012", "ilsvrc2012")
NUM_RECONSTRUCTIONS = 50_000
"""Images of the validation split behind every published reconstruction distance, count."""
OWN_PAPER = "arXiv 2501.01423v3"
INCONSISTENT_FIGURES = ("Fig 1", "Fig 2")
"""Figures of the paper whose numbers its own Table 2 contradicts."""
SAME_AS_TABLE_2 = ("Table 4", "Table 5", "Table 6", "Fig 4a", "Fig 4b", "Fig 4c")
RENAMED = {"align": "alignment", "d": "latent_dim", "f": "downsample", "is": "inception_score"}


@dataclass(frozen=True, kw_only=True)
class PublishedOverlay:
    """Published numbers that are like a figure's, and those that are not."""

    points: pd.DataFrame
    """Like ones: the columns of `load_published`."""
    left_out: pd.DataFrame
    """The others: `source`, `count`, `reason`."""

    def lines(self) -> list[tuple[str, pd.DataFrame]]:
        """Lines through the latent dims: (their name, their points)."""
        groups = self.points.groupby(["alignment", "generator"], sort=False)
        return [
            (
                f"published: {alignment}, {str(generator).removeprefix('LightningDiT-')}",
                line.sort_values("latent_dim"),
            )
            for (alignment, generator), line in groups
        ]


@cache
def load_published() -> pd.DataFrame:
    """Reads the published numbers.

    Returns:
        One line a number's source: `source`, `tokenizer`, `alignment`, `latent_dim`,
        `downsample`, `generator`, `params`, `epochs`, `rfid`, `psnr`, `ssim`, `lpips`, `gfid`,
        `inception_score`, `precision`, `recall`, `note`; `guidance_scale` (1 without guidance,
        NaN unknown), `guidance_inferred` (whether the source leaves it to be inferred) and
        `num_images` (samples behind gfid, NaN unknown).
    """
    file = resources.files("analysis") / "data" / "paper_numbers.csv"
    with resources.as_file(file) as path:
        raw = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"cfg": str})
    table = raw.rename(columns=RENAMED)
    inferred = table["note"].str.contains("cfg=1 inferred", na=False) & table["cfg"].isna()
    words = table["cfg"].where(~inferred, "none")
    scale = pd.to_numeric(words.replace({"none": "1", "yes": None}), errors="coerce")
    thousands = table["note"].str.extract(r"FID-(\d+)[kK]", expand=False).astype(float)
    repeats = table["source"].map(_is_repeat) & thousands.isna()
    return table.drop(columns="cfg").assign(
        guidance_scale=scale,
        guidance_inferred=inferred,
        num_images=(1000 * thousands).mask(repeats, 10_000.0),
    )


def select_published(rows: pd.DataFrame) -> PublishedOverlay:
    """Selects the published frontier points that are like a figure's.

    Returns:
        Points with both distances for the figure, and how many of each source were left out, and
        why. The paper's training recipe is not part of a protocol: the points' `epochs` say it.
    """
    table = load_published()
    figure_reason = _compare_figure(rows)
    num_images = rows["num_images"].dropna().unique()
    reasons = pd.Series(
        [figure_reason or _compare_row(row, num_images) for _, row in table.iterrows()],
        index=table.index,
        dtype=object,
    )
    left_out = table.assign(reason=reasons)[reasons != ""]
    counts = left_out.groupby(["source", "reason"], sort=False).size().rename("count")
    return PublishedOverlay(
        points=table[reasons == ""].reset_index(drop=True),
        left_out=counts.reset_index()[["source", "count", "reason"]],
    )


def _is_repeat(source: str) -> bool:
    return source.startswith(OWN_PAPER) and any(source.endswith(n) for n in SAME_AS_TABLE_2)


def _compare_figure(rows: pd.DataFrame) -> str:
    """Why no published number may stand in this figure; empty where some may."""
    if rows.empty:
        return "no row of the figure has both distances"
    names = {re.sub(r"[^a-z0-9]", "", str(name).lower()) for name in rows["dataset"].dropna()}
    if not names or not names <= set(IMAGENET_NAMES):
        return f"data set {DATASET}, the figure's is {_join(rows['dataset'])}"
    if not (rows["resolution"] == RESOLUTION).all():
        return f"{RESOLUTION} px, the figure's is {_join(rows['resolution'])} px"
    if not (rows["distance_name"] == DISTANCE).all():
        return f"{DISTANCE}, the figure's distance is {_join(rows['distance_name'])}"
    if not (rows["num_reconstructions"] == NUM_RECONSTRUCTIONS).all():
        count = _join(rows["num_reconstructions"])
        return f"{NUM_RECONSTRUCTIONS:,} reconstructions, the figure has {count}"
    if not (rows["guidance"] == "none").all():
        return "guided: interval, channels and sampler would have to agree and are not all known"
    return ""


def _compare_row(row: pd.Series, num_images: np.ndarray) -> str:
    """Why this number may not stand in a figure of its data set; empty where it may."""
    source = str(row["source"])
    if not source.startswith(OWN_PAPER):
        return "a restatement, a user's measurement or a comment, not the paper's own number"
    if source.endswith(INCONSISTENT_FIGURES):
        return "contradicts Table 2 of the same paper"
    if _is_repeat(source):
        return "repeats, ablates or traces what Table 2 has"
    if row[["rfid", "gfid", "latent_dim"]].isna().any():
        return "has not both distances and a latent dim"
    if row["guidance_scale"] != 1.0:
        return "guided, the figure is not"
    if [row["num_images"]] != num_images.tolist():
        return f"{row['num_images']:,.0f} samples, the figure has {_join(pd.Series(num_images))}"
    return ""


def _join(values: pd.Series) -> str:
    return join_unique(values, " or ") or "unknown"
