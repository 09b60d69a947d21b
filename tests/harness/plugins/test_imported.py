"""Code of the user's own: found, identified by its source, and refused in words."""

import os
import re
import subprocess
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from harness.config.sweep import load_sweep
from harness.schema.imported import Target, code_of, describe_module, source_files
from harness.schema.reading import ConfigError

EXAMPLES = Path(__file__).parents[3] / "sweeps" / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__of__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_what_a_module_imports_beside_it_is_part_of_its_identity(folder):
    write(
        folder,
        near_1="import torch, json\nfrom helper_1 import f\nimport pack_1.deep as d\n",
        helper_1="f = 1\n",
        pack_1__of____init__="",
        pack_1__of__deep="def g():\n    from . import lazy\n",
        pack_1__of__lazy="x = 1\n",
        pack_1__of__unused="x = 1\n",
    )
    found = source_files("near_1")
    assert set(found) == {"near_1", "helper_1", "pack_1", "pack_1.deep", "pack_1.lazy"}


def identity(folder: Path) -> str:
    """Of `near_2`, in a process of its own: a module stays what it was when it was imported."""
    code = "from harness.schema.imported import describe_module as d; print(d('near_2'))"
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    return done.stdout.decode().strip()


def test_a_change_anywhere_in_the_code_is_another_identity(folder):
    write(folder, near_2="import helper_2\n", helper_2="f = 1\n", other_2="f = 1\n")
    before = identity(folder)
    assert re.fullmatch(r"sha256 [0-9a-f]{64}", before)
    write(folder, other_2="f = 2\n")
    assert identity(folder) == before
    write(folder, helper_2="f = 2\n")
    assert identity(folder) != before


def test_an_installed_package_stands_by_its_version_too():
    assert re.match(r"jaxtyping \d+\.\d+\S* sha256 ", describe_module("jaxtyping"))


def test_the_content_of_weights_is_part_of_the_code_and_their_path_is_not(folder):
    write(folder, near_3="def build(weights):\n    return weights\n")
    found = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (folder / name).write_bytes(content)
        found.append(code_of(Target(target="near_3:build", weights=str(folder / name))))
    assert found[0] == found[1] != found[2]
    assert set(found[0]) == {"near_3", "weights of near_3:build"}


@pytest.mark.parametrize(
    ("target", "args", "says"),
    [
        ("absent_4:build", {}, "no module 'absent_4' is installed or lies in this folder"),
        ("near_4:bild", {}, "must have 'bild', but has not; did you mean 'build'?"),
        ("near_4:number", {}, "must be callable, but near_4:number is int"),
        ("near_4:build", {"b": 1}, r"near_4:build\(b=1\) failed: TypeError: "),
        ("near_4:fails", {}, r"near_4:fails\(\) failed: KeyError: 'x'"),
        ("broken_4:build", {}, "broken_4 cannot be imported: ZeroDivisionError"),
        ("leaves_4:build", {}, "leaves_4 cannot be imported: SystemExit: 3"),
        ("needs_4:build", {}, "needs_4 cannot be imported: no module 'absent_5'; install it"),
        ("models.mine:build", {}, "'models' is a package of this program"),
    ],
)
def test_code_that_cannot_be_had_is_refused_in_words(folder, target, args, says):
    write(
        folder,
        near_4="number = 1\ndef build(a=0): return a\ndef fails(): raise KeyError('x')\n",
        broken_4="1 / 0\n",
        needs_4="import absent_5\n",
        leaves_4="raise SystemExit(3)\n",
    )
    with pytest.raises(ConfigError, match=says):
        Target(target=target, args=args).build()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("absent_6:build", "no module 'absent_6' is installed or lies in this folder"),
        ("torn_6:build", "torn_6.py cannot be read as Python: invalid syntax (line 1)"),
        ("collections:deque", "'collections' must have Python source outside of Python's own"),
    ],
)
def test_a_module_that_cannot_be_read_is_told_with_its_path_in_the_file(folder, target, says):
    write(folder, torn_6="def (\n")
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        load_sweep(EXAMPLES / "own_tokenizer.yaml", [f"tokenizer.target={target}"])
    assert refused.value.path == "trial.tokenizer.target"


def test_what_code_prints_stays_out_of_what_a_command_prints(folder, capsys):
    write(folder, near_7="print('hello')\ndef build(): print('built')\n")
    Target(target="near_7:build").build()
    assert capsys.readouterr() == ("", "hello\nbuilt\n")


def test_a_package_that_is_installed_in_place_has_its_sources(tmp_path, monkeypatch):
    """Such a package is found by a finder of its own, and not along the path."""

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "pack_8":
                return spec_from_file_location(name, tmp_path / "elsewhere" / "__init__.py")
            return None

    write(tmp_path, elsewhere__of____init__="", elsewhere__of__near="from . import far\n")
    write(tmp_path, elsewhere__of__far="")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert set(source_files("pack_8.near")) == {"pack_8", "pack_8.near", "pack_8.far"}


def test_two_objects_of_one_class_differ_in_their_weights(folder):
    write(folder, near_9="")
    found = []
    for contents in ("ac", "bc"):
        (folder / "first").write_text(contents[0])
        (folder / "second").write_text(contents[1])
        targets = [Target(target="near_9:x", weights=str(folder / w)) for w in ("first", "second")]
        found.append(code_of(targets))
    assert found[0] != found[1]


@pytest.mark.parametrize("target", ["build", "a.b", "a:b:c", "a b:c", ":x", "a:", "../x:y"])
def test_a_target_has_a_form(target):
    with pytest.raises(ValueError, match="must be `package"):
        Target(target=target)
