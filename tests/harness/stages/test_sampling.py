"""Several sets of samples a row, kept samples, references from elsewhere, and all metrics."""

import csv
import statistics
from pathlib import Path

import numpy as np
import pytest

from harness.evaluate import main as evaluate
from harness.plan.plan import make_plan
from harness.results.columns import COLUMNS
from harness.storage.artifacts import Store


def row() -> dict[str, str]:
    (only,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    return only


def artifacts(kind: str) -> list:
    store = Store(Path("artifacts"))
    return [
        store.get(kind, path.parent.name) for path in store.root.glob(f"{kind}/*/artifact.json")
    ]


def test_a_row_holds_every_metric_of_its_samples(command, write, tree):
    tree["trial"]["evaluation"]["num_images"] = 200
    assert command(write(tree)).code == 0
    found = row()
    columns = [column.name for column in COLUMNS.values() if column.measured_on == "samples"]
    # One set of samples has no error between sets, and 200 images are fewer than one subset of
    # the kernel distance, which then has none either.
    assert [name for name in columns if not found[name]] == ["gfid_se", "kid_se"]
    assert found["rank_deficient"] == "no"
    assert 0 <= float(found["precision"]) <= 1


def test_several_sampling_seeds_give_mean_and_standard_error(command, write, tree):
    tree["trial"]["evaluation"]["sampling_seeds"] = 3
    assert command(write(tree)).code == 0
    values = [artifact.result["gfid"] for artifact in artifacts("generation")]
    assert len(set(values)) == 3
    found = row()
    assert found["num_sampling_seeds"] == "3"
    assert float(found["gfid"]) == pytest.approx(statistics.fmean(values))
    assert float(found["gfid_se"]) == pytest.approx(statistics.stdev(values) / 3**0.5)


def test_more_sampling_seeds_reuse_the_sets_that_are_there(load):
    one, three = (make_plan(load(f"evaluation.sampling_seeds={n}")).rows[0] for n in (1, 3))
    assert one.generator is not None
    assert three.generator is not None
    assert three.generator.generations[0] == one.generator.generations[0]


def test_kept_samples_are_an_archive_that_scores_the_same(command, write, tree):
    tree["trial"]["evaluation"]["keep_samples"] = True
    assert command(write(tree)).code == 0
    (made,) = artifacts("generation")
    with np.load(made.path / "samples.npz") as archive:
        assert archive["arr_0"].shape == (40, 16, 16, 3)
        assert archive["arr_0"].dtype == np.uint8
        assert archive["arr_1"].shape == (40,)
    again = command(write(tree), "--json").json["rows"][0]
    assert again["gfid"] == made.result["gfid"]


def test_a_folder_of_statistics_or_images_replaces_the_training_split(load, tmp_path):
    own, other = (
        make_plan(load(*settings)).rows[0].generator
        for settings in (
            (),
            (f"evaluation.reference={{kind: statistics_file, path: {tmp_path / 'none.npz'}}}",),
        )
    )
    assert own is not None
    assert other is not None
    assert own.training == other.training
    assert own.reference != other.reference


def test_a_tokenizer_alone_makes_a_row(command, write, tree):
    del tree["trial"]["generator"]
    ended = command(write(tree), "--json")
    (found,) = ended.json["rows"]
    assert (ended.code, found["status"], found["gfid"]) == (0, "done", None)
    assert found["rfid"] > 0
    assert not artifacts("generation")


def test_statistics_of_samples_serve_again_as_a_reference(command, write, tree):
    tree["trial"]["evaluation"]["keep_samples"] = True
    sweep = write(tree)
    assert command(sweep).code == 0
    (made,) = artifacts("generation")
    places = ("--samples", f"{made.path}/samples.npz",
              "--reference", f"{made.path}/statistics.safetensors")  # fmt: skip
    assert evaluate(["images", str(sweep), "--name", "self", *places, "--executor", "inline"]) == 0
    (found,) = artifacts("given_samples")
    assert found.result["gfid"] == pytest.approx(0.0, abs=1e-8)
    assert found.result["sfid"] == pytest.approx(0.0, abs=1e-8)
    assert found.result["num_reference"] == 40
