"""Feature networks of the user's own: aligned with, graded by, refused at planning in words."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from harness.config.python_encoder import PythonEncoderConfig
from harness.config.sweep import load_sweep
from harness.plan.plan import make_plan
from harness.plan.requirements import missing_items
from harness.schema.reading import ConfigError
from harness.stages.encoder.kind import METRIC, Place
from harness.stages.encoder.python import PythonEncoder, try_out

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "sweeps" / "examples"
ALIGNED = Place(role="alignment encoder", path="tokenizer.alignment.encoder", grid=4)


def test_an_encoder_of_ones_own_is_aligned_with_and_grades(tmp_path):
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "mine"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "harness.run", "own_encoder.yaml", "--executor", "inline"]
    words += ["--set", "tokenizer.training.steps=3", "--set", "evaluation.num_reconstructions=40"]
    words += ["--set", "grid.alignment=[gradients]"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(folder / "results" / "own_encoder" / "table.parquet")
    assert list(table["status"]) == ["done"]
    assert list(table["alignment_encoder"]) == ["my_encoder:Gradients()"]
    assert set(table["extractor"]) == {"python my_encoder:Gradients(cell=2, directions=4)"}
    assert table["rfid"].notna().all()
    records = [json.loads(p.read_text()) for p in folder.glob("artifacts/encoder/*/artifact.json")]
    assert [set(record["code"]) for record in records] == [{"my_encoder"}] * 2
    assert {record["result"]["feature_dim"] for record in records} == {8, 256}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            "evaluation.extractor.feature_dim=255",
            "trial.evaluation.extractor.target: `pooled` of my_encoder:Gradients must return shape "
            "[2, 255] for images of 16 pixels, but returned [2, 256]",
        ),
        (
            "presets.alignment.gradients.tokenizer.alignment.encoder.stride=2",
            "trial.tokenizer.alignment.encoder.input_size: must be 8, for features on the grid of "
            "4 x 4 cells",
        ),
        (
            "presets.alignment.gradients.tokenizer.alignment.encoder.stride=null",
            "trial.tokenizer.alignment.encoder.stride: a value is required where features",
        ),
        (
            "evaluation.extractor.stride=3",
            "evaluation.extractor.stride: must divide the 16 pixels of its images, but got 3",
        ),
        (
            "evaluation.extractor.target=my_encoder:absent",
            "trial.evaluation.extractor.target: my_encoder must have 'absent', but has not",
        ),
    ],
)
def test_what_does_not_fit_its_place_is_told_at_planning_with_its_path(settings, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        make_plan(load_sweep(EXAMPLES / "own_encoder.yaml", (settings,)))


def test_weights_that_are_absent_are_missing_and_no_error_of_the_code(tmp_path):
    path = f"evaluation.extractor.weights={tmp_path / 'absent.pt'}"
    plan = make_plan(load_sweep(EXAMPLES / "own_encoder.yaml", (path,)))
    (item,) = missing_items(plan.stages)
    assert "set `evaluation.extractor.weights` to the path of a copy" in str(item)


FEATURES = "return functional.avg_pool2d((dx * angles.cos() + dy * angles.sin()).abs(), self.cell)"


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        ("def pooled", "def poled", METRIC, "with `pooled`, which the metric extractor needs, but"),
        ("def features", "def maps", ALIGNED, "`features`, which the alignment encoder needs"),
        (FEATURES, "return images", ALIGNED, "must return shape [2, 8, 4, 4] for images of 16"),
        (FEATURES, "return None", ALIGNED, "a floating-point tensor, but returned NoneType"),
        (FEATURES, "return (dx > 0)", ALIGNED, "tensor, but returned torch.bool"),
        (FEATURES, f"{FEATURES} / 0.0", ALIGNED, "must return finite numbers"),
        (FEATURES, "raise OSError('no disk')", METRIC, "on images of 16 pixels: OSError: no disk"),
    ],
)
def test_what_breaks_the_contract_is_said_in_words(tmp_path, monkeypatch, old, new, place, says):
    name = f"mine_{zlib.crc32(new.encode())}"
    (tmp_path / f"{name}.py").write_text((EXAMPLES / "my_encoder.py").read_text().replace(old, new))
    monkeypatch.syspath_prepend(tmp_path)
    config = PythonEncoderConfig(
        target=f"{name}:Gradients",
        feature_dim=8 if place is ALIGNED else 128,
        stride=4 if place is ALIGNED else None,
        input_size=16,
    )
    with pytest.raises(ConfigError, match=re.escape(says)):
        try_out(config, place)


class Plain(torch.nn.Module):
    """Gives back what it was given, so that a test sees what arrives."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return images.amax(dim=(2, 3))[:, :2]


def plain(**changed: Any) -> PythonEncoder:
    config = PythonEncoderConfig(target="own_plain:Plain", feature_dim=3, input_size=4, **changed)
    return PythonEncoder(config)


@pytest.fixture(autouse=True)
def own_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_plain", SimpleNamespace(Plain=Plain))


def test_images_come_in_the_declared_range_and_size():
    images = torch.linspace(-1.0, 1.0, 2)[:, None, None, None].expand(2, 3, 8, 8).contiguous()
    seen = plain(stride=1, image_range=(0.0, 255.0)).features(images, grid=(4, 4))
    assert torch.equal(seen[0], torch.zeros(3, 4, 4))
    assert torch.equal(seen[1], torch.full((3, 4, 4), 255.0))


def test_feature_map_and_class_scores_come_where_they_are_offered_and_declared():
    images = torch.zeros(2, 3, 4, 4)
    whole, without = plain(stride=1).outputs(images), plain().outputs(images)
    assert whole.dense is not None
    assert whole.dense.shape == (2, 3, 4, 4)
    assert whole.logits is not None
    assert whole.logits.shape == (2, 2)
    assert without.dense is None


@pytest.mark.parametrize(
    "wrong", [{"stride": 0}, {"input_size": -1}, {"image_range": (1.0, 1.0)}, {"feature_dim": 0}]
)
def test_what_no_network_can_be_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1 and"):
        PythonEncoderConfig(**{"target": "a:b", "feature_dim": 3, **wrong})
