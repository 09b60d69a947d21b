"""Kinds of the user's own, from a folder outside of the checkout, through the commands."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fresh_process import run_command

from harness.commands.conformance import small_sweep
from harness.config.generator import GeneratorSettings
from harness.config.python_tokenizer import PythonTokenizerConfig
from harness.executors.parcel import Parcel
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.tokenizer.python import try_out

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "sweeps" / "examples"
SMALL = (
    "generator.training.steps=4",
    "evaluation.extractor.training.steps=4",
    "evaluation.num_images=40",
    "evaluation.sampler.num_steps=3",
    "data.args={count: 80}",
    "data.num_train_images=80",
    "data.num_eval_images=80",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples, where nothing of this program lies."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "mine"))


def run(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(folder, f"harness.{command}", *arguments)


def settings(*more: str) -> list[str]:
    return [word for setting in (*SMALL, *more) for word in ("--set", setting)]


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_tokenizer_and_a_data_set_of_ones_own_give_rows(folder, executor):
    done = run(folder, "run", "own_tokenizer.yaml", *settings(), "--executor", executor)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(folder / "results" / "own_tokenizer" / "table.parquet")
    assert list(table["status"]) == ["done", "done"]
    assert list(table["latent_dim"]) == [6, 12]
    assert table["gfid"].notna().all()
    # More coefficients of the cosine transform reconstruct better, whatever the generator does.
    assert table["psnr"].is_monotonic_increasing
    record = next((folder / "artifacts" / "tokenizer").glob("*/artifact.json"))
    assert set(json.loads(record.read_text())["code"]) == {"my_data", "my_tokenizer"}
    code = folder / "my_tokenizer.py"
    code.write_text(code.read_text() + "\n# another version\n")
    again = run(folder, "run", "own_tokenizer.yaml", *settings(), "--dry-run")
    assert "note: the code of my_tokenizer has changed since the last run into" in again.stderr


def test_a_change_of_the_code_makes_new_artifacts_of_what_uses_it(folder):
    arguments = ["own_tokenizer.yaml", *settings("grid.channels=['6']"), "--dry-run", "--json"]
    before = json.loads(run(folder, "run", *arguments).stdout)
    code = folder / "my_tokenizer.py"
    code.write_text(code.read_text() + "\n# another version\n")
    after = json.loads(run(folder, "run", *arguments).stdout)
    keys = [{s["kind"]: s["key"] for s in plan["stages"]} for plan in (before, after)]
    moved = {kind for kind in keys[0] if keys[0][kind] != keys[1][kind]}
    assert moved == {"tokenizer", "reconstruction", "latents", "generator", "generation"}


def test_the_check_runs_every_stage_and_names_what_does_not_hold(folder):
    good = run(folder, "check", "own_tokenizer.yaml", *settings())
    assert good.returncode == 0, good.stdout + good.stderr
    assert "ok    tokenizer: a latent depends on its own image alone" in good.stdout
    code = folder / "my_tokenizer.py"
    code.write_text(
        code.read_text().replace(
            "return functional.conv2d(images,", "return images.mean() + functional.conv2d(images,"
        )
    )
    bad = run(folder, "check", "own_tokenizer.yaml", *settings())
    assert bad.returncode == 1
    assert "FAIL  tokenizer: a latent depends on its own image alone" in bad.stdout


ENCODE = "return functional.conv2d(images, self.kernels, stride=self.patch)"
DECODE = "return functional.conv_transpose2d(latents, self.kernels, stride=self.patch).clamp(-1, 1)"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (ENCODE, "return images", "must return latents, or a pair of mean and log-variance of"),
        (ENCODE, "return None", "as a floating-point tensor, but returned NoneType"),
        (ENCODE, f"{ENCODE} / 0.0", "must return finite numbers"),
        (ENCODE, f"x = {ENCODE[7:]}; return x, x * float('nan')", "must return finite numbers"),
        (ENCODE, f"{ENCODE}.to('meta')", "tensor on cpu, where its input is, but returned one on"),
        (ENCODE, "raise OSError('no disk')", "failed on images of 16 pixels: OSError: no disk"),
        (DECODE, f"{DECODE.replace('.clamp(-1, 1)', '')} + 255", "must return images in [-1, 1]"),
        ("def decode", "def dekode", "`encode` and `decode`, but CosineTokenizer has no `decode`"),
    ],
)
def test_what_breaks_the_contract_is_said_in_words(tmp_path, monkeypatch, old, new, says):
    name = f"tokenizer_{zlib.crc32(new.encode())}"
    (tmp_path / f"{name}.py").write_text(
        (EXAMPLES / "my_tokenizer.py").read_text().replace(old, new)
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = PythonTokenizerConfig(
        target=f"{name}:CosineTokenizer", args={"latent_dim": 6}, latent_dim=6, downsample=4
    )
    with pytest.raises(ConfigError, match=re.escape(says)):
        try_out(config, resolution=16)


def test_what_breaks_the_contract_is_told_at_planning_with_its_path(folder):
    (folder / "my_tokenizer.py").write_text("import maths")
    done = run(folder, "run", "own_tokenizer.yaml", *settings(), "--dry-run")
    assert done.returncode == 2
    assert done.stderr == (
        "error: own_tokenizer.yaml: trial.tokenizer.target: my_tokenizer cannot be imported: no "
        "module 'maths'; install it\n"
    )
    assert not (folder / "results").exists()


def test_a_whole_kind_of_ones_own_trains_resumes_and_gives_rows(folder):
    cut = ["generator.training.steps=4", "evaluation.extractor.training.steps=4"]
    cut += ["tokenizer.training.steps=6", "evaluation.num_images=40", "latents.num_images=60"]
    given = [word for setting in cut for word in ("--set", setting)]
    checked = run(folder, "check", "own_kind.yaml", *given)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok    tokenizer: resumed from a checkpoint it gives the same bits" in checked.stdout
    done = run(folder, "run", "own_kind.yaml", *given, "--executor", "inline")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(folder / "results" / "own_kind" / "table.parquet")
    assert list(table["provenance"]) == ["reconstruction"] * 2
    # Its own code, and not this program's, is part of its keys.
    records = (folder / "artifacts").glob("*/*/artifact.json")
    code = {path.parts[-3]: json.loads(path.read_text()).get("code") for path in records}
    assert {kind for kind, found in code.items() if found} == {"tokenizer"}
    assert set(code["tokenizer"]) == {"my_kind"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'optimizer.load_state_dict(saved["optimizer"])',
            "pass",
            "resumed from a checkpoint it gives the same bits",
        ),
        (
            "        context.after_step(",
            "        str(), (",
            "a training stops where it is asked to",
        ),
    ],
)
def test_the_check_finds_a_training_that_does_not_resume(folder, old, new, says):
    code = folder / "my_kind.py"
    text = code.read_text().replace(old, new).replace(", images=len(images)\n", "\n")
    code.write_text(text)
    checked = run(folder, "check", "own_kind.yaml", "--set", "latents.num_images=60")
    assert checked.returncode == 1
    assert f"FAIL  tokenizer: {says}" in checked.stdout


def test_the_check_takes_a_trial_for_every_class_of_any_grid(load):
    sweep = load(
        "presets.tokenizer={own: {tokenizer: {kind: python, target: my_tokenizer:CosineTokenizer, "
        "args: {latent_dim: 6}, latent_dim: 6, downsample: 4}}, trained: {}}",
        "grid=[{tokenizer: [trained], seed: [0, 1]}, {tokenizer: [trained, own], seed: [2]}]",
        "generator.snapshots=[2]",
    )
    small = small_sweep(sweep)
    assert [dict(point.axes)["seed"] for point in small.points] == [0, 2]
    kinds = [point.trial.tokenizer.kind for point in small.points]
    assert kinds == ["va_vae", "python"]
    for point in small.points:
        assert isinstance(point.trial.generator, GeneratorSettings)
        assert (point.trial.generator.training.steps, point.trial.generator.snapshots) == (4, ())


def test_the_check_takes_every_configuration_of_code_of_ones_own_once(load):
    own = "{{kind: python, target: my_tokenizer:CosineTokenizer, args: {{latent_dim: {0}}}, "
    own += "latent_dim: {0}, downsample: 4}}"
    presets = ", ".join(f"d{size}: {{tokenizer: {own.format(size)}}}" for size in (3, 6))
    small = small_sweep(load(f"presets.own={{{presets}}}", "grid={own: [d3, d6], seed: [0, 1]}"))
    assert [dict(point.axes) for point in small.points] == [
        {"own": "d3", "seed": 0},
        {"own": "d6", "seed": 0},
    ]


@pytest.mark.parametrize(
    ("plugins", "text", "says"),
    [
        ("[absent_6]", "", "plugins.0: no module 'absent_6' is installed or lies in this folder"),
        ("my_kind", "", "plugins: must be a list of module names, but got 'my_kind'"),
        ("[broken_6]", "1 / 0", "plugins.0: broken_6 cannot be imported: ZeroDivisionError"),
        (
            "[broken_6]",
            "from dataclasses import dataclass\nfrom harness.kinds import TOKENIZERS\n"
            "@dataclass(frozen=True)\nclass Mine:\n    kind: str = 'mine'\n"
            "TOKENIZERS.add('mine', Mine)",
            "the tokenizer kind 'mine' must say check, columns, decodes, describe, downsample,",
        ),
        (
            "[broken_6]",
            "from dataclasses import dataclass\nfrom harness.kinds import TOKENIZERS\n"
            "from harness.kinds import TokenizerDefaults\n@dataclass(frozen=True)\n"
            "class Mine(TokenizerDefaults):\n    kind = name = scaling = 'x'\n    latent_dim = 4\n"
            "    downsample, seed, is_given, provenance = 4, 0, True, 'published'\n"
            "TOKENIZERS.add('va_vae', Mine)",
            "the tokenizer kind 'va_vae' must be registered once, but broken_6.Mine",
        ),
    ],
)
def test_plugins_that_cannot_be_had_are_refused_with_their_path(folder, plugins, text, says):
    (folder / "broken_6.py").write_text(text)
    tree = yaml.safe_load((folder / "own_kind.yaml").read_text())
    tree["plugins"] = yaml.safe_load(plugins)
    (folder / "own_kind.yaml").write_text(yaml.safe_dump(tree))
    done = run(folder, "run", "own_kind.yaml", "--dry-run")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_kind_that_nobody_registered_names_those_that_there_are(folder):
    done = run(folder, "run", "own_kind.yaml", "--set", "plugins=[]", "--dry-run")
    assert done.returncode == 2
    kinds = "'va_vae', 'vq', 'dual_vq', 'diffusers', 'identity', 'python', 'semvae', 'pca'"
    assert f"`kind` must be one of {kinds}, 'composite', but got 'linear'" in done.stderr
    named = run(
        folder, "run", "own_kind.yaml", "--set", "plugins=[]", "--plugin", "my_kind", "--dry-run"
    )
    assert named.returncode == 0, named.stderr


def test_an_installed_package_offers_its_kinds_by_an_entry_point(folder):
    metadata = folder / "mine-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[latent_frontier.plugins]\nlinear = my_kind:KIND\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    words = ["-m", "harness.run", "own_kind.yaml", "--set", "plugins=[]", "--dry-run"]
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_kind_that_was_added_without_what_stages_know_is_refused_at_planning(folder):
    code = folder / "my_kind.py"
    head, _, tail = code.read_text().partition("TOKENIZERS.add(")
    code.write_text(f'{head}TOKENIZERS.add("linear", LinearConfig)\n')
    assert tail
    done = run(folder, "run", "own_kind.yaml", "--dry-run")
    assert done.returncode == 2
    assert "must be added with what stages know of it" in done.stderr
    assert "Traceback" not in done.stderr


LOSS = 'return {"l2": (mean - self.centre).square().mean()}'


@pytest.mark.parametrize(
    ("module", "old", "new", "says"),
    [
        ("my_kind", "PointPosterior(mean=self.encoder(images))", "PointPosterior(mean=images)",
         "tokenizer: the networks of tokenizer 'f4d4 linear seed 0' cannot be built: `encode` must "
         "return shape [1, 4, 4, 4], as `layout` and the images say, but returned [1, 3, 16, 16]"),
        ("my_kind", "side = config.downsample", "side = config.side",
         "cannot be built: AttributeError: 'LinearConfig' object has no attribute 'side'"),
        ("my_kind", "    TokenizerKind(", "    dict(",
         "tokenizer: the tokenizer kind 'linear' must be added with what stages know of it, but "
         "my_kind.LinearConfig came with a dict; give `add` a third argument, a TokenizerKind"),
        ("my_kind", "return TokenizerStage(", "return dict(",
         "tokenizer: `stage` of the kind 'linear' must return a TokenizerStage, but returned {"),
        ("my_kind", "def stage(trial: Trial) -> TokenizerStage:", "def stage(trial):\n    1 / 0",
         "trial: your own code must give what the kinds here need, but at "),
        ("my_kind", '"reconstruction", "linear"', '"our laboratory", "linear"',
         "tokenizer: the provenance of a kind must be one of published, reproduced, "),
        ("my_kind", "trained_images=images", "trained_images=lambda config: 'many'",
         "cannot be built: TypeError: counts and sizes must be numbers"),
        ("my_regularizer", LOSS, 'return {"l2": mean - self.centre}',
         "tokenizer.regularizers.0: `loss` must return finite scalar tensors by name, but l2 is"),
        ("my_regularizer", '"l2": 4.0', '"l3": 4.0',
         "tokenizer.regularizers.0: `weights_at` must name terms of `loss` (l2), but names l3"),
        ("my_regularizer", "    def weights_at", "    def perturb(self, latent, images, drawn):\n"
         "        return latent[:, :, 1:], images\n\n    def weights_at",
         "tokenizer.regularizers.0: `perturb` must return latents [2, 4, h, w] and images"),
        ("my_regularizer", "layout.channels", "layout.width_of_all",
         "tokenizer.regularizers.0: AttributeError: 'LatentLayout' object has no attribute"),
    ],
)  # fmt: skip
def test_what_a_whole_kind_breaks_is_told_at_planning_with_its_path(folder, module, old, new, says):
    code = folder / f"{module}.py"
    assert code.read_text().count(old) == 1
    code.write_text(code.read_text().replace(old, new))
    file = f"{module.replace('my_', 'own_')}.yaml"
    done = run(folder, "run", file, "--set", "grid.tokenizer.latent_dim=[4]", "--dry-run")
    assert done.returncode == 2
    assert f"error: {file}: trial" in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_the_code_or_with_another_says_so(load, monkeypatch):
    from harness.executors.ray_machines import _find_code

    monkeypatch.syspath_prepend(EXAMPLES)
    own = "{kind: python, target: my_tokenizer:CosineTokenizer, args: {latent_dim: 6}, "
    plan = make_plan(load(f"tokenizer={own}latent_dim: 6, downsample: 4}}", "grid={}"))
    stage = next(stage for stage in plan.stages if stage.kind == "tokenizer")
    parcel = Parcel.of(stage)
    assert _find_code(parcel) == ""
    absent = dataclasses.replace(parcel, plugins=("absent_7",))
    assert "no module 'absent_7' is installed" in _find_code(absent)
    monkeypatch.setattr("harness.executors.ray_machines.code_of", lambda _: {"my_tokenizer": "x"})
    assert "install the same version there" in _find_code(parcel)
