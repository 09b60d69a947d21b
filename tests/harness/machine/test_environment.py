"""The revision of the code, which every artifact's record holds."""

import os
import shutil
import subprocess

import pytest

from harness.machine.environment import revision_of


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit."""
    (tmp_path / "a.py").write_text("1\n")
    name = ["-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_checkout_of_another_user_has_its_revision(checkout):
    own = revision_of(checkout)
    assert len(own) == 40
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 12345, 12345)
    assert revision_of(checkout) == own
    (checkout / "a.py").write_text("2\n")
    assert revision_of(checkout) == f"{own}+changes"


def test_a_revision_that_git_cannot_tell_is_unknown_with_the_reason(checkout, tmp_path, capsys):
    shutil.rmtree(checkout / ".git" / "refs")
    said = revision_of(checkout)
    assert said.startswith("unknown (")
    assert "not a git repository" in said
    assert capsys.readouterr().err.startswith(f"warning: the revision of {checkout} is unknown")
