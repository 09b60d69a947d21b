"""Which trials make one line of a figure, and what the line is called.

A line's trials differ in their latent dim and seeds alone. A setting that differs in the table
therefore splits lines and joins their names; one that does not goes without saying.
"""

from typing import Any

import pandas as pd

UNALIGNED = "none"
ALIGNMENT_DETAILS = (
    "alignment_encoder",
    "vf_weight",
    "cos_margin",
    "distmat_margin",
    "adaptive_vf",
)
"""Columns that split an alignment where they differ among its rows."""
SHARED_DETAILS = ("tokenizer", "downsample", "label_policy")
"""Columns that split aligned and unaligned lines alike where they differ in the table."""


def name_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Names the line of each row as briefly as the table allows.

    Args:
        rows: Rows that are done.

    Returns:
        The rows with `alignment` ("vf vit_large_patch16_224.mae, vf_weight 0.1") and
        `generator_size` ("XL/2") extended by what differs, and the new column `baseline`: the
        `alignment` of the unaligned line that differs in nothing else, its own where unaligned.
    """
    alignment = rows["alignment"].astype(object)
    shared = pd.Series("", index=rows.index, dtype=object)
    for column in ALIGNMENT_DETAILS:
        kinds = rows.groupby("alignment")[column].transform("nunique", dropna=False)
        split = (kinds > 1) & (rows["alignment"] != UNALIGNED)
        alignment = alignment.where(~split, alignment + _describe(rows[column]))
    for column in SHARED_DETAILS:
        if _differs(rows[column]):
            shared = shared + _describe(rows[column])
    return rows.assign(
        alignment=alignment + shared,
        baseline=UNALIGNED + shared,
        generator_size=_name_generators(rows),
    )


def _name_generators(rows: pd.DataFrame) -> pd.Series:
    names = rows["generator_size"].astype(object)
    if _differs(rows["generator"]):
        names = _map_text(rows["generator"], "{} ") + names
    if _differs(rows["patch_size"]):
        names = names + _map_text(rows["patch_size"], "/{}")
    return names


def _describe(values: pd.Series) -> pd.Series:
    """Text to join a name; an encoder's name needs no word before it."""
    needs_word = values.name != "alignment_encoder"
    return _map_text(values, f", {values.name} {{}}" if needs_word else " {}")


def _map_text(values: pd.Series, pattern: str) -> pd.Series:
    texts = [pattern.format(_format(value)) for value in values]
    return pd.Series(texts, index=values.index, dtype=object)


def _differs(values: pd.Series) -> bool:
    return values.nunique(dropna=False) > 1


def _format(value: Any) -> str:
    if pd.isna(value):
        return "unknown"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
