"""Data sets of the user's own are opened when a sweep is planned."""

import re
import zlib
from pathlib import Path

import pytest

from harness.config.sweep import load_sweep
from harness.data import DATASETS
from harness.plan.plan import make_plan
from harness.schema import reading
from harness.schema.reading import ConfigError

EXAMPLES = Path(__file__).parents[3] / "sweeps" / "examples"
ITEM = "return image.astype(np.uint8), index % 2"
KIND = """
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from harness.kinds import DATASETS, ImageDataset


@dataclass(frozen=True, kw_only=True)
class BlankConfig:
    kind: Literal["blank"] = "blank"
    name, eval_split, resolution, num_classes = "blank", "eval", 16, 2
    num_train_images, num_eval_images = 40, 40

    def missing(self):
        return []


class Blank(ImageDataset):
    resolution, class_names = 16, ("0", "1")

    def num_images(self, split):
        return 40

    def labels(self, split):
        return np.zeros(40, dtype=np.int64)

    def images(self, split, indices, pipeline=None):
        return torch.zeros(len(indices), 3, 16, 16, dtype=torch.uint8)

    def augmented(self, split, indices, generator, part=slice(None)):
        return self.images(split, indices[part])

    def fingerprint(self):
        return "blank"

    def content_fingerprint(self):
        return "blank"


DATASETS.add("blank", BlankConfig, lambda config, device: Blank())
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is forgotten after it."""
    for name in ("_configs", "_implementations", "_origins"):
        monkeypatch.setattr(DATASETS, name, dict(getattr(DATASETS, name)))
    yield
    reading._adapter.cache_clear()


def plan(folder: Path, monkeypatch, text: str, *settings: str) -> None:
    name = f"data_{zlib.crc32(text.encode())}"
    (folder / f"{name}.py").write_text(text.replace('"blank"', f'"{name}"'))
    monkeypatch.syspath_prepend(folder)
    given = [setting.replace("MODULE", name) for setting in settings]
    make_plan(load_sweep(EXAMPLES / "own_tokenizer.yaml", ["grid.channels=['6']", *given]))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("class Shapes", "class Forms", "target: MODULE must have 'Shapes', but has not"),
        ("import numpy", "import maths, numpy", "target: MODULE cannot be imported: no module"),
        ("import numpy", "raise SystemExit(3)\nimport numpy", "target: MODULE cannot be imported"),
        ("import numpy", "def (\nimport numpy", "target: "),
        ("def __len__", "def length", "target: MODULE:Shapes must return a data set with `len`"),
        ("count: int = 600", "count: int = 5", "MODULE:Shapes of split train must hold 600 images"),
        ("% 2 for", "+ 2 for", "labels of MODULE:Shapes (split train) must be one integer an"),
        ("[index % 2 for", "[str(index) for", "labels of MODULE:Shapes (split train) must be one"),
        (ITEM, ITEM.replace("uint8", "float32"), "image 0 of MODULE:Shapes must be a PIL image"),
        (ITEM, "return {'image': 1}", "MODULE:Shapes must give a pair (image, label) for 0"),
        (ITEM, "raise OSError('no disk')", "failed: OSError: no disk"),
    ],
)
def test_what_breaks_the_contract_is_told_at_planning_with_its_path(
    tmp_path, monkeypatch, old, new, says
):
    text = (EXAMPLES / "my_data.py").read_text()
    assert text.count(old) == 1
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path, monkeypatch, text.replace(old, new), "data.target=MODULE:Shapes")
    separator = "." if says.startswith("target: ") else ": "
    name = f"data_{zlib.crc32(text.replace(old, new).encode())}"
    assert f"yaml: trial.data{separator}" in str(refused.value)
    assert says.removeprefix("target: ").replace("MODULE", name) in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", ""),
        ("zeros(len", "ones(1 + len", "two images must be 8-bit [2, 3, 16, 16], but train gives"),
        ("torch.uint8", "torch.float32", "but train gives torch.float32 [2, 3, 16, 16]"),
        ("return 40", "return 39", "train must hold 40 images and as many labels, but holds 39"),
        ("np.zeros(40", "2 + np.zeros(40", "labels must lie in 0..1, but train has 2..2"),
        ("len(indices)", "len(indexes)", "NameError: name 'indexes' is not defined"),
        (", lambda config, device: Blank())", ")", "must be added with what stages know of it"),
    ],
)
def test_a_whole_kind_is_held_to_what_it_declares(tmp_path, monkeypatch, old, new, says):
    text = KIND.replace(old, new) if old else KIND
    settings = ("plugins=[MODULE]", "data={kind: MODULE}", "latents={}", "evaluation.num_images=40")
    if not says:
        plan(tmp_path, monkeypatch, text, *settings)
        return
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        plan(tmp_path, monkeypatch, text, *settings)
    assert refused.value.path == "trial.data"
