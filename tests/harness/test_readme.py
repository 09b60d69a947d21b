"""Every command of the top README, as it is typed there; long ones as far as their dry run."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {
    "make": "CI calls it",
    "source": "what `make` has made",
    "ray": "tests/harness/executors joins a cluster",
    "harness.check": "tests/harness/plugins/test_own_kinds.py runs it over the same file",
    "harness.bench": "tests/harness/test_bench.py runs it",
}


def commands() -> list[list[str]]:
    """The indented lines of the README, each as words; a comment after two spaces is no part."""
    typed = "\n".join(line for line in README.splitlines() if line.startswith("    "))
    typed = re.sub(r"'[^']*'", lambda found: " ".join(found[0].split()), typed.replace("\\\n", " "))
    parts = [re.split(r"\s{4,}(?=[a-z])", line.strip())[0] for line in typed.splitlines()]
    words = [shlex.split(part) for part in parts if re.match(r"(python|make|source|ray) ", part)]
    assert len(words) > 15
    return words


@pytest.fixture
def folder(command):
    """The folder in which commands are typed, with what the README says lies there."""
    Path("sweeps").symlink_to(ROOT / "sweeps")
    for split in ("train", "val"):
        Path("my_images", split).mkdir(parents=True)


def end_of(words: list[str]) -> int:
    """Runs a command in this process; returns its exit code."""
    shared = {"/shared/artifacts": "artifacts", "/shared/results": "results"}
    return importlib.import_module(words[2]).main([shared.get(word, word) for word in words[3:]])


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_readme_is_planned(words, folder):
    name = words[2] if words[0] == "python" else words[0]
    if name in ELSEWHERE or "results/frontier" in words:
        return
    assert name in ("harness.run", "harness.tune")
    # Images and weights are not here.
    assert end_of([*words, "--dry-run", "--assume-device", "H100"]) == 0


@pytest.mark.reports
def test_what_the_readme_does_with_results_can_be_done(folder, command, write, tree):
    tree["name"] = "frontier"
    assert command(write(tree)).code == 0
    typed = [words for words in commands() if "results/frontier" in words]
    assert len(typed) == 3
    assert all(end_of(words) == 0 for words in typed)


def test_files_and_pages_that_the_readme_names_are_there():
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / link).exists(), link
    for file in re.findall(r"`(sweeps/[\w/.]+)`", README):
        assert (ROOT / file).exists(), file
    assert len(README.splitlines()) <= 200
