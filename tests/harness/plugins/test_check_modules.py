"""The check of a module, without a sweep file: what it registers, or one object that it builds."""

import shutil
from pathlib import Path

import pytest

from harness.check import main

EXAMPLES = Path(__file__).parents[3] / "sweeps" / "examples"
TOKENIZER = ("my_tokenizer:CosineTokenizer", "--as", "tokenizer", "--set", "tokenizer.downsample=4",
             "--set", "tokenizer.args={latent_dim: 6}")  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The examples as the working directory."""
    copied = Path(shutil.copytree(EXAMPLES, tmp_path / "mine"))
    monkeypatch.chdir(copied)
    return copied


def test_a_module_that_registers_a_kind_is_checked_around_it(capsys):
    assert main(["my_regularizer"]) == 0
    said = capsys.readouterr().out
    assert "ok    tokenizer: resumed from a checkpoint it gives the same bits" in said
    assert "FAIL" not in said


def test_an_object_is_checked_as_the_part_that_it_is(capsys):
    assert main([*TOKENIZER, "--set", "tokenizer.latent_dim=6"]) == 0
    assert "ok    tokenizer: encoding is deterministic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (TOKENIZER, "trial.tokenizer.latent_dim: a value is required"),
        (TOKENIZER, "give it with --set tokenizer.latent_dim=VALUE"),
        (TOKENIZER[:1], "--as: must say which part of a trial"),
        (("my_data",), "my_data must register a kind when it is imported, but registers none"),
        (("absent_module",), "no module 'absent_module' is installed or lies in this folder"),
        (("absent.yaml",), "absent.yaml"),
    ],
)
def test_what_only_the_author_knows_is_asked_for_in_words(capsys, words, says):
    assert main(list(words)) == 2
    assert says in capsys.readouterr().err
