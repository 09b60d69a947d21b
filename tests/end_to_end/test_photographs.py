"""The sweeps on photographs, cut down: from image files to the table and its figures."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.config.sweep import load_sweep
from harness.run import main

pytestmark = pytest.mark.usefixtures("one_file_a_figure")
SWEEPS = Path(__file__).parents[2] / "sweeps"
NAMES = ("stripes", "bars", "slants", "dots")
TRAIN, EVAL = 160, 40
ENCODERS = ("evaluation.extractor", "presets.alignment.vf.tokenizer.alignment.encoder")
TRAININGS = ("tokenizer", "generator", *ENCODERS)
CUT = (
    "grid.tokenizer.latent_dim=[4, 16]",
    f"data.num_train_images={TRAIN}",
    f"data.num_eval_images={EVAL}",
    f"data.num_classes={len(NAMES)}",
    "latents.num_images=100",
    "evaluation.num_images=40",
    "evaluation.num_reconstructions=20",
    "evaluation.num_reference=100",
    "evaluation.sampler.num_steps=4",
    "evaluation.batch_size=20",
    "tokenizer.training.steps=4",
    "generator.training.steps=6",
    *(f"{name}.training.steps=8" for name in ENCODERS),
    *(f"{name}.training.batch_size=16" for name in TRAININGS),
    *(f"{name}.training.warmup_steps=0" for name in TRAININGS),
)

ONE_SIZE = "grid.generator.size=[pico]"


def textures(count: int, side: int, seed: int) -> tuple[list[Image.Image], list[int]]:
    """Gratings of random phase, colour and noise; the direction is the class."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] * 2 * np.pi / 8
    waves = (rows, columns, (rows + columns) / 2, np.maximum(np.sin(rows), np.sin(columns)))
    labels = [number % len(NAMES) for number in range(count)]
    images = []
    for label in labels:
        grating = np.sin(waves[label] + random.uniform(0, 2 * np.pi))[..., None]
        noise = random.normal(0, 8, (side, side, 1))
        pixels = 128 + 70 * grating * random.uniform(0.5, 1.0, 3) + noise
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return images, labels


def write_parquet(path: Path, count: int, side: int, seed: int) -> None:
    images, labels = textures(count, side, seed)
    cells = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "jpeg", quality=92)
        cells.append({"bytes": file.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array(labels, pa.int64())})
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}}
    text = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path, row_group_size=64)


def run(sweep: str, *settings: str) -> int:
    pairs = [part for setting in settings for part in ("--set", setting)]
    return main([str(SWEEPS / f"{sweep}.yaml"), "--executor", "inline", *pairs])


@pytest.mark.parametrize(
    ("sweep", "side", "split", "alignments"),
    [
        ("cifar10_cpu", 32, "test", "[none, vf]"),
        ("imagenet64_subset_cpu", 64, "validation", "[vf]"),
    ],
)
def test_photographs_in_parquet_files_become_table_and_figures(
    sweep, side, split, alignments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", TRAIN, 0), (split, EVAL, 1)):
        write_parquet(data / f"{name}-00000-of-00001.parquet", count, side, seed)
    axes = (ONE_SIZE, f"grid.alignment={alignments}")
    assert run(sweep, *CUT, f"data.root={data}", *axes) == 0, capsys.readouterr()
    results = tmp_path / "results" / sweep
    table = pd.read_parquet(results / "table.parquet")
    assert set(table["status"]) == {"done"}
    assert len(table) == (4 if "none" in alignments else 2)
    assert set(table["latent_dim"]) == {4, 16}
    assert table[["rfid", "psnr", "gfid", "extractor_accuracy"]].notna().all().all()
    aligned = table["alignment"] == "vf"
    assert table.loc[aligned, "alignment_encoder_accuracy"].between(0.0, 1.0).all()
    assert table.loc[~aligned, "alignment_encoder_accuracy"].isna().all()
    for figure in ("frontier", "dilemma"):
        assert (results / "figures" / f"{figure}.png").stat().st_size > 10_000
    assert (results / "report.html").is_file()


def test_a_folder_stands_in_for_the_parquet_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split, count, seed in (("train", TRAIN, 0), ("val", EVAL, 1)):
        for number, (image, label) in enumerate(zip(*textures(count, 80, seed), strict=True)):
            folder = tmp_path / "data" / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number:03}.png")
    counts = f"num_classes: {len(NAMES)}, num_train_images: {TRAIN}, num_eval_images: {EVAL}"
    kind = f"kind: image_folder, name: textures, root: {tmp_path / 'data'}"
    settings = [setting for setting in CUT if not setting.startswith(("data.", "grid."))]
    settings += [
        "grid.tokenizer.latent_dim=[4]",
        "grid.alignment=[none]",
        "grid.generator.size=[pico]",
    ]
    data = f"data={{{kind}, resolution: 64, flip: true, {counts}}}"
    assert run("imagenet64_subset_cpu", data, *settings) == 0, capsys.readouterr()
    (row,) = pd.read_parquet("results/imagenet64_subset_cpu/table.parquet").to_dict("records")
    assert (row["dataset"], row["resolution"], row["status"]) == ("textures", 64, "done")


@pytest.mark.parametrize("sweep", ["cifar10", "imagenet64_subset"])
def test_the_small_sweep_is_the_full_one_in_small(sweep):
    full, small = (load_sweep(SWEEPS / f"{sweep}{end}.yaml") for end in ("", "_cpu"))
    assert full.points[0].trial.data == small.points[0].trial.data
    axes, few = ({axis.name: axis.values for axis in each.axes} for each in (full, small))
    for axis in ("tokenizer.latent_dim", "alignment"):
        assert axes[axis] == few[axis]
    assert len(axes["generator.size"]) == len(few["generator.size"]) == 2
    layouts = {point.trial.layout.shape for point in full.points}
    assert {point.trial.layout.shape for point in small.points} == layouts
    assert len(axes["seed"]) == 2
