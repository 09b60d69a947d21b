"""Feature networks of the user's own: aligned with, graded by, refused at planning in words."""

import itertools
import json
import re
import shutil
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from fresh_process import run_command

from harness.commands.conformance import findings
from harness.config.python_encoder import PythonEncoderConfig
from harness.config.sweep import Sweep, load_sweep
from harness.plan.plan import make_plan
from harness.plan.requirements import missing_items
from harness.schema.reading import ConfigError
from harness.stages.encoder.kind import METRIC, Place
from harness.stages.encoder.python import PythonEncoder, try_out

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "sweeps" / "examples"
ALIGNED = Place(role="alignment encoder", path="tokenizer.alignment.encoder", grid=4)


KIND = """
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from harness.kinds import EXTRACTORS, EncoderKind, EncoderNetwork, EncoderOutputs, write_tensors


@dataclass(frozen=True, kw_only=True)
class ColoursConfig:
    kind: Literal["colours"] = "colours"
    side: int = 2
    name, feature_name, distance_name = "colours", "colours 8", "colour distance"

    def describe(self):
        return ""

    def check(self, resolution):
        pass


class Colours(EncoderNetwork):
    stride, input_size = 1, (8, 8)

    def __init__(self, config):
        super().__init__()
        self.side, self.scale = config.encoder.side, torch.nn.Parameter(torch.ones(1))

    @property
    def feature_dim(self):
        return 3 * self.side**2

    def forward(self, images):
        return self.scale * functional.adaptive_avg_pool2d(images, self.side).flatten(1)

    def outputs(self, images):
        return EncoderOutputs(pooled=self(images), dense=None, logits=None)


def make(config, context):
    write_tensors(context.work.payload / "model.safetensors", Colours(config).state_dict())
    return {}


def load(config, artifact):
    network = Colours(config)
    network.load_state_dict(artifact.tensors("model.safetensors"))
    return network


EXTRACTORS.add("colours", ColoursConfig, EncoderKind(make=make, build=Colours, load=load))
"""
GRADES = "{kind: python, target: 'my_encoder:Gradients', feature_dim: 128}"
GRID = f"{{alignment: [gradients], evaluation.extractor: [{GRADES}, {{kind: colours}}]}}"


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_feature_networks_of_ones_own_are_aligned_with_and_grade(tmp_path, executor):
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "mine"))
    (folder / "my_colours.py").write_text(KIND)
    words = ["--set", "tokenizer.training.steps=3", "--set", "evaluation.num_reconstructions=40"]
    words += ["--set", f"grid={GRID}", "--plugin", "my_colours", "--executor", executor]
    done = run_command(folder, "harness.run", "own_encoder.yaml", *words)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(folder / "results" / "own_encoder" / "table.parquet")
    assert list(table["status"]) == ["done", "done"]
    assert list(table["alignment_encoder"]) == ["my_encoder:Gradients()"] * 2
    graded = ["python my_encoder:Gradients()", "colours 8"]
    assert list(table["extractor"]) == graded
    assert table["rfid"].notna().all()
    assert table["reconstruction_protocol_hash"].nunique() == 2
    records = [json.loads(p.read_text()) for p in folder.glob("artifacts/encoder/*/artifact.json")]
    code = sorted(name for record in records for name in record["code"])
    assert code == ["my_colours", "my_encoder", "my_encoder"]


def planned(*settings: str) -> Sweep:
    """The example, graded by a network of one's own as well, and changed."""
    given = (f"evaluation.extractor={GRADES}", *settings)
    return load_sweep(EXAMPLES / "own_encoder.yaml", given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            "evaluation.extractor.feature_dim=127",
            "trial.evaluation.extractor.target: `pooled` of my_encoder:Gradients must return shape "
            "[2, 127] for images of 16 pixels, but returned [2, 128]",
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
        make_plan(planned(settings))


def test_weights_that_are_absent_are_missing_and_no_error_of_the_code(tmp_path):
    path = f"evaluation.extractor.weights={tmp_path / 'absent.pt'}"
    plan = make_plan(planned(path))
    (item,) = missing_items(plan.stages)
    assert "set `evaluation.extractor.weights` to the path of a copy" in str(item)


def test_the_check_names_features_that_depend_on_the_images_beside_one(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text(
        (EXAMPLES / "my_encoder.py").read_text().replace("flatten(1)", "flatten(1) + images.mean()")
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = findings(
        planned("grid.alignment=[none]", "evaluation.extractor.target=beside:Gradients")
    )
    of_encoder = [each for each in itertools.islice(found, 10) if "metric extractor" in each.what]
    assert [each.what.rpartition(": ")[2] for each in of_encoder if each.error] == [
        "features depend on their own image alone"
    ]
    assert len(of_encoder) == 6


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
