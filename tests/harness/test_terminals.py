"""Standard streams of any kind: no terminal changes how a command ends, and no name moves it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
from harness.commands.exit_codes import exit_code

def work():
    with open("made", "w") as file:
        print("made", file=file)
        print("FID 3.1 \\u00d7 10 \\x1b[2J", "." * 100_000)
        print("a warning", file=sys.stderr)
        return 3 if file.fileno() > 2 else 4

sys.exit(exit_code(work))
"""


def run(tmp_path: Path, redirected: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", sys.executable, "-c", COMMAND],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_changes_nothing_and_no_file_takes_its_place(tmp_path, redirected):
    assert run(tmp_path, redirected).returncode == 3
    assert (tmp_path / "made").read_text() == "made\n"


def test_a_reader_that_goes_away_changes_nothing(tmp_path):
    ends, writes = os.pipe()
    os.close(ends)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writes,
        stderr=subprocess.PIPE,
    )
    os.close(writes)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (3, b"a warning\n")


def test_a_terminal_that_is_not_utf8_is_given_what_it_can_show(tmp_path):
    done = run(tmp_path, "", PYTHONIOENCODING="ascii")
    assert done.returncode == 3
    # Names move no cursor either.
    assert done.stdout.startswith(rb"FID 3.1 \xd7 10 \x1b[2J ...")


def test_output_that_cannot_be_kept_is_an_error(tmp_path):
    done = run(tmp_path, "> /dev/full")
    assert done.returncode == 1
    assert b"No space left" in done.stderr
