"""Trainings that start from the tokenizer or the generator of a row."""

import json
from pathlib import Path

import pytest
import torch

from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Store

STILL = ("training.learning_rate=1e-12", "training.steps=1")


@pytest.fixture
def made(finished, tree):
    """The rows of a run with a snapshot, in `results/small`, by their images."""
    tree["trial"]["generator"]["snapshots"] = [2]
    finished(tree)
    del tree["trial"]["generator"]["snapshots"]
    rows = (json.loads(path.read_text()) for path in Path("results/small/rows").glob("*.json"))
    return {row["generator_images"]: row for row in rows}


def started(part: str, row: str, more: str = "") -> list[str]:
    weights = f"{part}.initial_weights={{results: results/small, row: {row}{more}}}"
    return [weights, *(f"{part}.{setting}" for setting in STILL), "name=again"]


def stage_of(load, kind: str, *settings: str):
    return next(stage for stage in make_plan(load(*settings)).stages if stage.kind == kind)


def test_trainings_start_from_the_weights_of_a_row_and_say_so(command, write, tree, made, load):
    row, store = made[16], Store(Path("artifacts"))
    settings = [*started("tokenizer", row["row_id"][:6]), *started("generator", row["row_id"])]
    ended = command(write(tree), *(f"--set={setting}" for setting in settings))
    assert ended.code == 0, ended.err
    (path,) = Path("results/again/rows").glob("*.json")
    again = json.loads(path.read_text())
    files = {"tokenizer": "model.safetensors", "generator": "ema-step000000002.safetensors"}
    for kind, name in files.items():
        given, found = (store.get(kind, each[f"{kind}_key"]) for each in (row, again))
        last = name if kind == "tokenizer" else "ema-step000000001.safetensors"
        for weight, tensor in given.tensors(name).items():
            torch.testing.assert_close(found.tensors(last)[weight], tensor)
        told = found.result["initial_weights"]
        assert told["file"] == f"{name}, sha256 {given.sha256(name)}"
        assert (told["num_loaded"], told["left"]) == (len(given.tensors(name)), {})
        assert f"{given.path.resolve() / name} loaded, 0 not" in ended.out


def test_a_row_and_the_file_behind_it_have_one_key(made, load):
    key = made[32]["tokenizer_key"]
    by_row = stage_of(load, "tokenizer", *started("tokenizer", "{seed: 0, generator_images: 32}"))
    path = Path("artifacts", "tokenizer", key, "model.safetensors")
    by_file = stage_of(
        load, "tokenizer", *started("tokenizer", made[32]["row_id"])[1:],
        f"tokenizer.initial_weights={path}",
    )  # fmt: skip
    assert by_row == by_file
    assert by_row != stage_of(load, "tokenizer", *started("tokenizer", "x")[1:])
    assert "starting from seed=0 generator_images=32 of results/small" in by_row.label


@pytest.mark.parametrize(
    ("part", "row", "more", "path", "says"),
    [
        ("generator", "{seed: 0}", "", "row", "one row of results/small, but {'seed': 0} names 2"),
        ("generator", "zz", "", "row", "names 0 of 2; give a row_id in quotes"),
        ("tokenizer", "ID", ", store: elsewhere", "store", "but elsewhere does not hold"),
    ],
)
def test_a_row_that_is_not_there_is_told_at_planning(made, load, part, row, more, path, says):
    row = row.replace("ID", f"'{made[32]['row_id']}'")
    with pytest.raises(ConfigError, match=says) as refused:
        make_plan(load(*started(part, row, more)))
    assert refused.value.path == f"trial.{part}.initial_weights.{path}"


def test_a_row_that_is_written_wrongly_is_told_with_its_path(load):
    with pytest.raises(ConfigError, match="unknown key 'rows'; did you mean 'row'"):
        load("generator.initial_weights={results: results/small, rows: x}")


def test_a_folder_without_rows_and_a_row_without_a_generator_are_told(command, write, tree, load):
    with pytest.raises(ConfigError, match="but results/small has no rows"):
        make_plan(load(*started("generator", "x")))
    generator = tree["trial"].pop("generator")
    assert command(write(tree)).code == 0
    tree["trial"]["generator"] = generator
    (row,) = Path("results/small/rows").glob("*.json")
    row_id = json.loads(row.read_text())["row_id"]
    with pytest.raises(ConfigError, match="must name a row with a generator"):
        make_plan(load(*started("generator", f"'{row_id}'")))
