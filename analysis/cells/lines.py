"""Which trials make one line of a figure, and what the line is called.

A line's trials differ in their latent dim and seeds alone. A setting that differs in the table
therefore splits lines and joins their names; one that does not goes without saying.
"""

import pandas as pd

from analysis.table.columns import GIVEN
from analysis.table.protocols import format_value

UNALIGNED = "none"
ALIGNMENT_DETAILS = (
    "alignment_encoder",
    "vf_weight",
    "cos_margin",
    "distmat_margin",
    "adaptive_vf",
)
"""Columns that split an alignment where they differ among its rows."""
SHARED_DETAILS = ("tokenizer", "downsample", "label_policy", "tokenizer_images")
"""Columns that split aligned and unaligned lines alike where they differ in the table."""
NO_GENERATOR = "no generator"
"""Generator size of a trial that ends with its tokenizer."""


def name_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Names the line of each row as briefly as the table allows.

    Args:
        rows: Rows that are done.

    Returns:
        The rows with `alignment` ("vf vit_large_patch16_224.mae, vf_weight 0.1") and
        `generator_size` ("XL/2") extended by what differs, and the new column `baseline`: the
        `alignment` of the unaligned line that differs in nothing else, its own where unaligned.
        `counterpart` is that label without what says how long the tokenizer was trained.
        Given images are named by their sweep ("vf, given paper"), since nobody knows the rest.
    """
    given = rows["provenance"] == GIVEN
    if not given.any():
        return _name_own(rows)
    parts = [_name_own(rows[~given]), _name_given(rows[given])]
    return pd.concat(parts).loc[rows.index]


def name_given(rows: pd.DataFrame) -> pd.Series:
    """Names given images by their sweep, or their tokenizer where that is not known."""
    return rows["sweep"].fillna(rows["tokenizer"]).astype(object).fillna("unnamed")


def _name_given(rows: pd.DataFrame) -> pd.DataFrame:
    name = "given " + name_given(rows)
    return rows.assign(
        alignment=(rows["alignment"].astype(object) + ", " + name).fillna(name),
        baseline=UNALIGNED + ", " + name,
        counterpart=UNALIGNED + ", " + name,
        generator_size=_fill_size(rows["generator_size"]),
    )


def _name_own(rows: pd.DataFrame) -> pd.DataFrame:
    alignment = rows["alignment"].astype(object)
    shared = pd.Series("", index=rows.index, dtype=object)
    counterpart = shared + UNALIGNED
    for column in ALIGNMENT_DETAILS:
        kinds = rows.groupby("alignment")[column].transform("nunique", dropna=False)
        split = (kinds > 1) & (rows["alignment"] != UNALIGNED)
        alignment = alignment.where(~split, alignment + _describe(rows[column]))
    for column in SHARED_DETAILS:
        if _differs(rows[column]):
            shared = shared + _describe(rows[column])
            if column != "tokenizer_images":
                counterpart = counterpart + _describe(rows[column])
    return rows.assign(
        alignment=alignment + shared,
        baseline=UNALIGNED + shared,
        counterpart=counterpart,
        generator_size=_name_generators(rows),
    )


def _name_generators(rows: pd.DataFrame) -> pd.Series:
    names = _fill_size(rows["generator_size"])
    if _differs(rows["generator"]):
        names = _map_text(rows["generator"], "{} ") + names
    if _differs(rows["patch_size"]):
        names = names + _map_text(rows["patch_size"], "/{}")
    return names.where(rows["generator_size"].notna(), NO_GENERATOR)


def _fill_size(sizes: pd.Series) -> pd.Series:
    return sizes.astype(object).where(sizes.notna(), NO_GENERATOR)


def _describe(values: pd.Series) -> pd.Series:
    """Text to join a name; an encoder's name needs no word before it."""
    needs_word = values.name != "alignment_encoder"
    return _map_text(values, f", {values.name} {{}}" if needs_word else " {}")


def _map_text(values: pd.Series, pattern: str) -> pd.Series:
    texts = [pattern.format("unknown" if pd.isna(v) else format_value(v)) for v in values]
    return pd.Series(texts, index=values.index, dtype=object)


def _differs(values: pd.Series) -> bool:
    return values.nunique(dropna=False) > 1
