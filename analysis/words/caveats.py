"""Caveats that stand beside a table's numbers: seeds, sample sizes, extractor."""

from analysis.cells.cells import Cells
from analysis.table.protocols import say_drawing

USUAL_SAMPLES = 50_000
"""Samples behind a published distance, count."""
FEW_SEEDS = 5


def say_caveats(cells: Cells) -> list[str]:
    """Says what the numbers of one protocol rest on and how far they go."""
    if cells.points.empty:
        return []
    setting, rows = cells.setting, cells.rows
    notes = [_say_seeds(cells)]
    sizes = f"Sample sizes: {setting.sizes} a distance."
    if rows[["num_images", "num_reconstructions"]].min().min() < USUAL_SAMPLES:
        sizes += " Fréchet distances of few images are biased upwards; compare like counts."
    notes.append(sizes)
    if "in-domain" in setting.distance_name:
        notes.append(
            f"Extractor: distances are taken in the features of {setting.extractor}, trained on"
            " this data; they are no FID and not comparable with published numbers."
        )
    else:
        notes.append(
            f"Extractor: distances are the {setting.distance_name}, in the features of"
            f" {setting.extractor}."
        )
    if (rows["rank_deficient"] == "yes").any():
        notes.append("Rank: some distances rest on fewer images than features (rank deficient).")
    if len(cells.gaps):
        plural = "rows are" if len(cells.gaps) > 1 else "row is"
        notes.append(f"Gaps: {len(cells.gaps)} {plural} left out; see below.")
    if drawing := say_drawing(rows):
        notes.append(f"Sampling: each kind of generator in its own way ({drawing}).")
    names = [str(name) for name in rows["protocol_name"].dropna().unique() if name]
    if names:
        notes.append(f"Protocol preset: {', '.join(names)}.")
    return notes


def _say_seeds(cells: Cells) -> str:
    most = int(cells.points["num_seeds"].max())
    if most == 1:
        return "Seeds: one, so there are no error bars and no difference is established."
    text = f"Seeds: {cells.setting.repetitions} a point, shown as mean ± standard error"
    return f"{text}; with so few, errors are rough." if most < FEW_SEEDS else f"{text}."
