"""A sweep small enough to run in seconds, and the command that runs it."""

import copy
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from harness.config.sweep import Sweep, load_sweep
from harness.run import main

Tree = dict[str, Any]

SMALL_VIT: Tree = {
    "kind": "in_domain",
    "name": "vit_tiny_patch16_224",
    "model_args": {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "drop_rate": 0.1,
    },
    "training": {"steps": 2, "batch_size": 16, "learning_rate": 1e-3},
}

SMALL_SWEEP: Tree = {
    "name": "small",
    "trial": {
        "data": {"kind": "digits", "resolution": 16},
        "tokenizer": {
            "latent_dim": 2,
            "architecture": {
                "base_width": 8,
                "width_multipliers": [1, 1, 2],
                "num_blocks": 1,
                "attention_resolutions": [],
                "norm_groups": 4,
            },
            "training": {"steps": 3, "batch_size": 8, "learning_rate": 1e-3},
        },
        "latents": {"flip": False, "num_statistics": 200, "batch_size": 500},
        "generator": {
            "size": {"depth": 1, "width": 16, "num_heads": 2},
            "patch_size": 2,
            "training": {"steps": 4, "batch_size": 8, "learning_rate": 1e-3},
        },
        "evaluation": {
            "extractor": {**SMALL_VIT, "seed": 1},
            "num_images": 40,
            "num_reference": 100,
            "num_reconstructions": 40,
            "sampler": {"num_steps": 3, "timestep_shift": 0},
        },
    },
    "presets": {
        "alignment": {
            "none": {"tokenizer.alignment": {"kind": "none"}},
            "vf": {"tokenizer.alignment": {"kind": "vf", "encoder": SMALL_VIT}},
        }
    },
    "grid": {},
}


class Ended(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def save_blank(draw: Callable[[float], Figure], folder: Path, name: str) -> list[Path]:
    """Saves one pixel in the place of a figure."""
    path = folder / f"{name}.png"
    Image.new("RGB", (1, 1)).save(path)
    return [path]


@pytest.fixture(autouse=True)
def no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the report out of runs in this process: it takes two thirds of a small one.

    Tests that are marked `reports` have it, with a blank picture for every figure.
    """
    if not request.node.get_closest_marker("reports"):
        monkeypatch.setattr("harness.results.folder._analyse", lambda results: ([], "no report"))
    else:
        monkeypatch.setattr("analysis.report.save_figure", save_blank)
        monkeypatch.setattr("analysis.report.ENDS", (".png",))


@pytest.fixture(autouse=True)
def own_code_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the code of a user that other tests have met, which Ray would send to its workers."""
    monkeypatch.setattr("harness.schema.imported._loaded", [])
    monkeypatch.setattr("harness.schema.imported._met", {})


@pytest.fixture
def little_memory() -> Iterator[None]:
    """2 GiB for a test, beyond what is there: what would fill the machine is an error of memory."""
    (used_kib,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(used_kib) * 1024 + 2**31, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.fixture
def tree() -> Tree:
    """The small sweep as a tree that a test may change."""
    return copy.deepcopy(SMALL_SWEEP)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Tree | str], Path]:
    """Writes a tree, or text, as a sweep file."""

    def write_sweep(content: Tree | str) -> Path:
        path = tmp_path / "sweep.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path

    return write_sweep


@pytest.fixture
def load(write: Callable[[Tree], Path], tree: Tree) -> Callable[..., Sweep]:
    """Loads the small sweep under settings `PATH=VALUE`."""

    def load_small(*settings: str) -> Sweep:
        return load_sweep(write(tree), settings)

    return load_small


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs `python -m harness.run` in this process, inline, from an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(path: Path, *arguments: str, executor: str = "inline") -> Ended:
        capsys.readouterr()
        try:
            code = main([str(path), "--executor", executor, *arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of what sweeps have left behind, and which sweeps these are."""
    return tmp_path_factory.mktemp("left_behind"), []


@pytest.fixture
def finished(
    command: Callable[..., Ended],
    write: Callable[[Tree], Path],
    left_behind: tuple[Path, list[str]],
) -> Callable[..., Path]:
    """Fills the working folder as a run of a sweep does; returns the sweep's file.

    Each sweep runs once for all tests of this process. They have a copy each.
    """
    root, known = left_behind

    def fill(tree: Tree, *arguments: str) -> Path:
        path, which = write(tree), json.dumps([tree, arguments])
        if which not in known:
            ended = command(path, *arguments)
            assert ended.code == 0, ended.err
            shutil.copytree(".", root / str(len(known)), symlinks=True)
            known.append(which)
        else:
            folder = root / str(known.index(which))
            shutil.copytree(folder, ".", symlinks=True, dirs_exist_ok=True)
        return path

    return fill
