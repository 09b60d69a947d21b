"""Generators of the user's own: a function from labels and random numbers to latents or images."""

import json
import re
import shutil
import zlib
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.commands.conformance import findings
from harness.config.python_generator import PythonGeneratorConfig
from harness.config.sweep import load_sweep
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.plan.requirements import missing_items
from harness.run import main
from harness.schema.reading import ConfigError
from harness.stages.flops import network_key

EXAMPLES = Path(__file__).parents[3] / "sweeps" / "examples"
CUT = ("evaluation.num_images=40", "evaluation.extractor.training.steps=4", "data.args={count: 60}",
       "data.num_train_images=60", "data.num_eval_images=60",
       "evaluation.extractor.training.batch_size=8")  # fmt: skip
LATENTS = """
import torch

class Around(torch.nn.Module):
    def __init__(self, channels, weights):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.load(weights, weights_only=True))

    def forward(self, labels, random):
        shape = (len(labels), len(self.mean), 4, 4)
        noise = torch.randn(shape, generator=random, device=labels.device)
        return self.mean[:, None, None] + labels[:, None, None, None] + noise
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples, where nothing of this program lies, as the working directory."""
    copied = Path(shutil.copytree(EXAMPLES, tmp_path / "mine"))
    monkeypatch.chdir(copied)
    return copied


def generator_of(*settings: str):
    plan = make_plan(load_sweep(Path("own_generator.yaml"), [*CUT, *settings]))
    return next(stage for stage in plan.stages if stage.kind == "generator")


@pytest.mark.reports
def test_a_function_gives_a_row_without_training(folder):
    words = [word for setting in CUT for word in ("--set", setting)]
    assert main(["own_generator.yaml", *words, "--executor", "inline"]) == 0
    (row,) = pd.read_parquet("results/own_generator/table.parquet").to_dict("records")
    assert (row["status"], row["generator_size"], row["generator_params"]) == (
        "done", "my_generator:build()", 0
    )  # fmt: skip
    assert row["gfid"] < 100
    # How it draws is its own, and so is its protocol.
    assert json.loads(row["protocol"])["sampler"] == "the generator's own"
    for empty in ("generator_images", "generator_s", "generator_flops_per_image", "train_flops"):
        assert pd.isna(row[empty])
    record = json.loads(next(Path("artifacts/generator").glob("*/artifact.json")).read_text())
    assert record["inputs"] == {}
    assert set(record["code"]) == {"my_generator"}
    assert not Path("artifacts/latents").exists()
    assert Path("results/own_generator/report.html").is_file()


def test_weights_are_part_of_the_key_and_copied(folder, tmp_path):
    (folder / "around.py").write_text(LATENTS)
    torch.save(torch.ones(6), tmp_path / "w.pt")
    block = (
        "trial.generator={kind: python, target: 'around:Around', args: {channels: 6}, weights: "
        f"{tmp_path / 'w.pt'}}}"
    )
    before = generator_of(block)
    assert estimate(before).parameters == 6
    torch.save(torch.zeros(6), tmp_path / "w.pt")
    assert generator_of(block) != before
    for finding in findings(load_sweep(Path("own_generator.yaml"), [*CUT, block])):
        assert not finding.error, finding
    (tmp_path / "w.pt").unlink()
    assert "generator.weights" in str(missing_items([generator_of(block)])[0])


def test_arguments_of_any_name_tell_networks_apart_and_our_seed_does_not():
    unlike = ({"seed": 1}, {"seed": 2}, {"net": {"ema": 1}}, {"net": {"ema": 2}})
    configs = [
        PythonGeneratorConfig(target="a:b", args=args, seed=seed)
        for args in unlike
        for seed in (0, 1)
    ]
    assert len({network_key(config) for config in configs}) == len(unlike)


def test_a_seed_moves_no_generator_that_is_given(folder):
    assert generator_of() == generator_of("generator.seed=3")


DRAW = "        return inside[:, None] * uniform("


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("import torch\n", "import torch\nimport maths\n", "target", "no module 'maths'"),
        ("def build", "def make", "target", "must have 'build', but has not"),
        ("    return draw\n", "    return 7\n", "target", "must return a function of labels and a"),
        (DRAW, "        return labels\n" + DRAW, "target", "floating-point tensor, but returned"),
        (DRAW, "        return labels * 1.0\n" + DRAW, "target", "images of shape [2, 3, 16, 16]"),
        (DRAW, DRAW.replace("return", "return 9 *"), "image_range", "images in [0, 255], but"),
        (DRAW, DRAW.replace("return", "return 0 /"), "target", "must return finite numbers"),
        ("generator=random, ", "", "target", "from the torch.Generator that it is given"),
        (DRAW, "        raise OSError('no disk')\n" + DRAW, "target", "OSError: no disk"),
    ],
)
def test_what_breaks_the_contract_is_told_at_planning_with_its_path(folder, old, new, path, says):
    text = (folder / "my_generator.py").read_text()
    assert text.count(old) == 1
    name = f"generator_{zlib.crc32((old + new).encode())}"
    (folder / f"{name}.py").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        generator_of(f"generator.target={name}:build")
    assert refused.value.path == f"trial.generator.{path}"


def test_a_target_that_is_no_callable_is_told_at_planning(folder):
    (folder / "torn.py").write_text("def build(:\n")
    with pytest.raises(ConfigError, match=r"torn\.py cannot be read as Python.*line 1"):
        generator_of("generator.target=torn:build")
    (folder / "constant.py").write_text("build = 7\n")
    with pytest.raises(ConfigError, match="must be callable, but constant:build is int"):
        generator_of("generator.target=constant:build")


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("evaluation.sampler={num_steps: 7}", "evaluation.sampler"),
        ("evaluation.guidance=[{kind: cfg, scale: 2.0}]", "evaluation.guidance.0.kind"),
        ("evaluation.label_policy=data", "evaluation.label_policy"),
    ],
)
def test_what_a_function_cannot_be_asked_for_is_refused(folder, setting, path):
    with pytest.raises(ConfigError) as refused:
        generator_of(setting)
    assert refused.value.path.endswith(path)
