"""The commands under one name, from a folder that has packages of our names too."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.__main__ import COMMANDS, main

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = "import sys\nfrom harness.__main__ import main\nsys.exit(main())\n"
"""What an installation writes as `frontier`."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with packages of the user's own under our names, which must not be imported."""
    folder = tmp_path / "theirs"
    for name in ("harness", "models", "analysis"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('their {name}')\n")
    return folder


@pytest.fixture
def python(foreign: Path) -> Run:
    """Runs Python in that folder, as where this program is installed."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=foreign, env=environment, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def frontier(tmp_path: Path, python: Run) -> Run:
    """Runs `frontier` in that folder."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "frontier"
    script.write_text(SCRIPT)
    return lambda *arguments: python(str(script), *arguments)


def test_every_command_is_there_and_listed_with_what_it_does(frontier, capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name, (module, about) in COMMANDS.items():
        assert any(line.split() == [name, *about.split()] for line in listed.splitlines())
        assert find_spec(module) is not None
    assert frontier().stdout == listed
    told = frontier("compare", "--help")
    assert (told.returncode, "usage" in told.stdout) == (0, True)


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert main(["stauts"]) == 2
    assert "unknown command 'stauts' (did you mean 'status'?)" in capsys.readouterr().err


def test_the_package_and_its_commands_cost_no_heavy_import():
    code = "import sys, harness, harness.__main__ as m; m.main([])\n"
    code += "assert not {'torch', 'pandas', 'numpy', 'ray', 'yaml'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_frontier_runs_in_a_folder_with_packages_of_our_names(frontier, write, tree, executor):
    path = write(tree)
    done = frontier("run", str(path), "--only", "tokenizer", "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert "executed 1 stages" in done.stdout


def test_an_old_python_and_a_missing_package_are_one_line():
    for module in ("harness.run", "analysis.report"):
        # Without the folder of installed packages.
        bare = [sys.executable, "-S", "-m", module, "x"]
        done = subprocess.run(bare, cwd=REPOSITORY, capture_output=True, text=True)
        assert re.fullmatch(r"error: \w+ is not installed in .*\n", done.stderr)
    old = "import sys; sys.version_info = (3, 9, 2); import harness"
    done = subprocess.run(
        [sys.executable, "-c", old], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stderr.startswith("error: Python 3.11 or newer is needed, but this is ")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    for package in ("harness", "analysis", "models"):
        source = (REPOSITORY / package / "__init__.py").read_text()
        ast.parse(source, feature_version=(3, 7))


def test_python_m_says_what_is_in_the_way_and_what_it_suggests_works(foreign, python, write, tree):
    # Where `harness` is theirs too, Python finds no `harness.run` and says so itself.
    (foreign / "harness" / "__init__.py").unlink()
    (foreign / "harness").rmdir()
    command = ["harness.run", str(write(tree)), "--dry-run", "--set", "grid.seed=[0, 1]"]
    refused = python("-m", *command)
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"error: {foreign / 'models'} is found in place of")
    suggested = line.rpartition("type `")[2].rstrip("`")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(shlex.split(suggested), cwd=foreign, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"2 rows" in done.stdout


def test_a_program_that_finds_another_models_first_is_told_so(foreign, python):
    done = python("-c", "import sys; sys.path.remove(''); sys.path.append(''); import harness")
    assert done.returncode == 0, done.stderr
    (foreign / "harness" / "__init__.py").unlink()
    (foreign / "harness").rmdir()
    done = python("-c", "import harness")
    assert "ImportError" in done.stderr
    assert f"{foreign / 'models'} is found in place of" in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("harness.run", ["sweeps/frontier.yaml", "--dry-run", "--store=~nobody-of-this-name/x"]),
        ("harness.status", ["~nobody-of-this-name/results"]),
        ("harness.bench", ["--out=~nobody-of-this-name/x"]),
        ("harness.export_latents", ["~nobody-of-this-name/a", "b"]),
        ("analysis.report", ["~nobody-of-this-name/results"]),
        ("analysis.compare", ["~nobody-of-this-name/a", "b"]),
    ],
)
def test_a_tilde_is_a_home_in_every_path(command, arguments, monkeypatch, capsys):
    """A shell expands it only at the beginning of a word."""
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as ended:
        sys.exit(import_module(command).main(arguments))
    assert ended.value.code == 2
    assert "write the whole path, not '~nobody-of-this-name" in capsys.readouterr().err
