"""Damaged artifacts are found out when they are read, set aside and made anew; nothing else is."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

TIMED = [
    "tokenizer_s",
    "generator_s",
    "generation_s",
    "sample_images_per_s",
    "sample_tokens_per_s",
    "created",
    "git_revision",
]


@pytest.fixture
def folders(finished, tree):
    """Kind -> artifact folder of a small sweep that has run, with the file of the sweep."""
    path = finished(tree)
    folders = {
        kind: next((Path("artifacts") / kind).iterdir())
        for kind in ("tokenizer", "reconstruction", "latents", "generator", "generation")
    }
    return folders | {"sweep": path}


def table() -> pd.DataFrame:
    return pd.read_parquet("results/small/table.parquet").drop(columns=TIMED)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tokenizer", "model.safetensors"),
        ("generator", "ema-step000000004.safetensors"),
        ("generator", None),
    ],
)
def test_a_damaged_input_is_made_anew_and_the_table_is_the_same(command, folders, kind, name):
    before = table()
    if name is None:
        next(folders[kind].glob("*.safetensors")).unlink()
    else:
        flip(folders[kind] / name)
    shutil.rmtree(folders["generation"])
    ended = command(folders["sweep"])
    assert ended.code == 0, ended.err
    assert f"{folders[kind].resolve()} was damaged (its file" in ended.err
    assert len(list(folders[kind].parent.glob("*.damaged-*"))) == 1
    pd.testing.assert_frame_equal(table(), before, check_exact=True)


def test_a_damaged_artifact_that_nobody_reads_is_left_alone(command, folders):
    flip(folders["latents"] / "latents_shard00000.safetensors")
    shutil.rmtree(folders["generation"])
    assert "executed 1 stages" in command(folders["sweep"]).out
    assert not list(folders["latents"].parent.glob("*.damaged-*"))


def test_latents_are_never_decoded_by_another_training_of_their_tokenizer(command, folders):
    # What training again on a GPU may leave: the same key, other bits.
    flip(folders["tokenizer"] / "model.safetensors")
    record = json.loads((folders["tokenizer"] / "artifact.json").read_text())
    del record["record_sha256"]
    record["files"]["model.safetensors"]["sha256"] = sha256(
        folders["tokenizer"] / "model.safetensors"
    )
    (folders["tokenizer"] / "artifact.json").write_text(json.dumps(record))
    shutil.rmtree(folders["generation"])
    ended = command(folders["sweep"])
    assert ended.code == 0, ended.err
    assert "it was made of another tokenizer" in ended.err
    for kind in ("latents", "generator"):
        assert len(list(folders[kind].parent.glob("*.damaged-*"))) == 1
    for kind in ("tokenizer", "reconstruction"):
        assert not list(folders[kind].parent.glob("*.damaged-*"))


def sha256(path: Path) -> str:
    from harness.storage.durable import file_sha256

    return file_sha256(path)


@pytest.mark.parametrize("text", ["torn", '{"step": 1, "loss": 9'])
def test_a_torn_curve_is_left_out_and_told_and_ends_no_run(command, folders, text):
    before = table()
    curve = folders["tokenizer"] / "curve.jsonl"
    curve.write_text(text)
    ended = command(folders["sweep"])
    assert ended.code == 0, ended.err
    assert "warning: left out of the results: " in ended.err
    assert f"remove {folders['tokenizer']} to have its stage run again" in ended.err
    pd.testing.assert_frame_equal(table(), before, check_exact=True)
    assert set(pd.read_parquet("results/small/curves.parquet")["stage_kind"]) == {"generator"}
