"""Files are whole or absent, and the file system's refusals are told in three parts."""

import copy
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.storage.artifacts import write_tensors
from harness.storage.durable import StorageError, is_temporary, replacing, write_json


def _fail_halfway(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise ArithmeticError


def test_a_write_that_fails_leaves_the_file_before_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    with pytest.raises(ArithmeticError):
        _fail_halfway(path)
    assert path.read_text() == '{\n "value": 1\n}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert path.read_text() == "one"


def test_temporary_files_are_told_from_payload():
    assert is_temporary(Path(".a.json.0123456789ab.tmp"))
    assert is_temporary(Path(".tmpqFcUaB"))
    assert not is_temporary(Path("model.safetensors"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"No space left on device \(.* MiB free\); free space there"),
        (errno.EROFS, "Read-only file system; make the folder writable"),
        (errno.EFBIG, "File too large; raise the limit of file sizes"),
        (errno.EIO, "Input/output error; check the disk"),
    ],
)
def test_a_refusal_names_the_path_the_cause_and_the_remedy(tmp_path, number, words):
    with pytest.raises(StorageError, match=words) as caught, replacing(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number
    assert str(tmp_path / "a.json") in str(caught.value)
    assert "run the same command again" in str(caught.value)


def test_a_refusal_can_be_copied_as_between_processes():
    error = StorageError(errno.ENOSPC, "the disk is full")
    back = copy.deepcopy(error)
    assert (back.errno, str(back)) == (errno.ENOSPC, "the disk is full")


BEYOND_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from harness.storage.durable import StorageError
from harness.storage.artifacts import write_tensors

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_tensors(Path(sys.argv[1]), {"weight": torch.zeros(4096)})
except StorageError as error:
    sys.exit(str(error))
"""


def test_a_real_limit_on_file_sizes_is_told_and_the_file_before_stays(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"weight": torch.zeros(1)})
    before = path.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", BEYOND_LIMIT, str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "File too large" in ended.stderr
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_mode_of_the_umask_whatever_wrote_them(tmp_path, umask, mode):
    """safetensors makes its files 0600, which no other user of a shared store can read."""
    code = (
        "import os, torch; from pathlib import Path; "
        f"os.umask({umask}); "
        "from harness.storage.artifacts import write_tensors; "
        "from harness.storage.durable import write_json; "
        "write_tensors(Path('a.safetensors'), {'x': torch.zeros(1)}); write_json(Path('a.json'), 1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
