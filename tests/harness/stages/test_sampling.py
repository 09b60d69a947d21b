"""Several sets of samples a row, kept samples, references from elsewhere, and all metrics."""

import csv
import statistics
from pathlib import Path

import numpy as np
import pytest

from harness.evaluate import main as evaluate
from harness.metrics.sample_scores import METRICS, SampleScores
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.results.columns import COLUMNS
from harness.stages.stage import Stage
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


def test_kept_samples_are_an_archive_that_scores_the_same(command, finished, tree):
    tree["trial"]["evaluation"]["keep_samples"] = True
    path = finished(tree)
    (made,) = artifacts("generation")
    with np.load(made.path / "samples.npz") as archive:
        assert archive["arr_0"].shape == (40, 16, 16, 3)
        assert archive["arr_0"].dtype == np.uint8
        assert archive["arr_1"].shape == (40,)
    again = command(path, "--json").json["rows"][0]
    assert again["gfid"] == made.result["gfid"]


@pytest.mark.parametrize("kept", ["features", "samples"])
def test_what_is_kept_scores_as_samples_that_are_scored_at_once(command, write, tree, kept):
    rows = []
    for keep in ("none", kept):
        tree["trial"]["evaluation"]["keep"] = keep
        ended = command(write(tree), "--json")
        assert ended.code == 0, ended.err
        rows += ended.json["rows"]
    names = [column.name for column in COLUMNS.values() if column.measured_on == "samples"]
    assert rows[0]["density"] is not None
    for name in (*names, "protocol_hash"):
        assert rows[0][name] == rows[1][name], name


def test_a_metric_that_came_later_is_measured_on_what_was_kept(command, write, tree, monkeypatch):
    tree["presets"]["kept"] = {
        "nothing": {},
        "features": {"evaluation.keep": "features"},
        "images": {"evaluation.keep": "samples"},
        "as before": {"evaluation.keep_samples": True},
    }
    tree["grid"] = {"kept": list(tree["presets"]["kept"])}
    compute = SampleScores.compute

    def earlier(self, reference):
        return {n: v for n, v in compute(self, reference).items() if n != "density"}

    with monkeypatch.context() as patch:
        patch.setattr(SampleScores, "compute", earlier)
        patch.setattr("harness.stages.scores.METRICS", tuple(m for m in METRICS if m != "density"))
        before = command(write(tree), "--json").json["rows"]
    assert [row["density"] for row in before] == [None] * 4
    made = {a.record["key"]: a.record["created"] for a in artifacts("generation")}
    after = {row["axis.kept"]: row for row in command(write(tree), "--json").json["rows"]}
    assert {a.record["key"]: a.record["created"] for a in artifacts("generation")} == made
    assert after.pop("nothing")["density"] is None
    assert len({row["density"] for row in after.values()}) == 1
    assert after["features"]["density"] > 0
    assert [row["gfid"] for row in after.values()] == [row["gfid"] for row in before[1:]]


def test_what_scores_is_no_input_of_what_is_kept(load):
    def drawn(*settings: str) -> Stage:
        generator = make_plan(load(*settings)).rows[0].generator
        assert generator is not None
        return generator.generations[0]

    another = "evaluation.num_reference=90", "evaluation.num_reference_features=50"
    network = "evaluation.extractor.model_args.embed_dim=32"
    for keep in ("evaluation.keep=features", "evaluation.keep=samples"):
        assert drawn(keep) == drawn(keep, *another)
    assert drawn("evaluation.keep=samples") == drawn("evaluation.keep=samples", network)
    assert drawn("evaluation.keep=features") != drawn("evaluation.keep=features", network)
    assert drawn() != drawn(*another)


def test_a_dry_run_tells_the_size_of_what_is_kept(load):
    def size(keep: str) -> float:
        stages = make_plan(load(f"evaluation.keep={keep}", "evaluation.num_images=1000")).stages
        return sum(estimate(stage).disk_bytes for stage in stages if stage.kind == "generation")

    assert size("features") - size("none") == 4 * 16 * 1000 + 8 * 16**2
    assert size("samples") > 3 * 16**2 * 1000


def test_keep_and_its_earlier_form_do_not_go_together(command, write, tree):
    tree["trial"]["evaluation"] |= {"keep": "features", "keep_samples": True}
    ended = command(write(tree))
    assert ended.code == 2
    assert "`keep_samples` must be left out beside `keep`" in ended.err


def test_every_metric_of_samples_is_scored_again_where_it_is_lacking():
    columns = {c.name for c in COLUMNS.values() if c.measured_on == "samples"}
    assert {*METRICS} == {c for c in columns if COLUMNS[c].type == "number"} - {"gfid_se"}


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


def test_statistics_of_samples_serve_again_as_a_reference(finished, tree):
    tree["trial"]["evaluation"]["keep_samples"] = True
    sweep = finished(tree)
    (made,) = artifacts("generation")
    kept = np.load(made.path / "samples.npz")
    images = kept["arr_0"]
    images[0] = 255 - images[0]  # The reference's own images are refused.
    np.savez("others.npz", arr_0=images, arr_1=kept["arr_1"])
    places = ("--samples", "others.npz", "--reference", f"{made.path}/statistics.safetensors")
    assert evaluate(["images", str(sweep), "--name", "self", *places, "--executor", "inline"]) == 0
    (found,) = artifacts("given_samples")
    assert 0 < found.result["gfid"] < made.result["gfid"]
    assert 0 < found.result["sfid"] < made.result["sfid"]
    assert found.result["num_reference"] == 40
