"""The specification of columns: its copy in the analysis, and what a row takes from an artifact."""

import json
from pathlib import Path

import pytest

from analysis.table.columns import REQUIRED_COLUMNS, known_columns
from harness.results.columns import COLUMNS
from harness.results.rows import generation_columns, metrics_of, reconstruction_columns


def result_of(part, **values):
    """A stage's result with every metric of a part."""
    names = [c.name for c in COLUMNS.values() if c.measured_on == part and c.promised]
    counts = {"num_images": 10, "num_reference": 20, "rank_deficient": False}
    return dict.fromkeys(names, 1.0) | counts | values


def test_the_copy_of_the_analysis_is_the_specification():
    copy = json.loads(Path("analysis/data/columns.json").read_text(encoding="utf-8"))
    assert list(copy) == list(COLUMNS), "python -m harness.results.columns writes it anew"
    assert copy == {name: column.metadata() for name, column in COLUMNS.items()}
    assert list(known_columns()) == list(COLUMNS)
    assert set(REQUIRED_COLUMNS) <= set(COLUMNS)


def test_what_has_a_better_way_and_a_label_is_a_number_that_says_what_it_is_measured_on():
    for column in COLUMNS.values():
        if column.better != "none" and column.label:
            assert column.type == "number"
            assert column.measured_on in ("tokenizer", "reconstructions", "latents", "samples")


@pytest.fixture
def newcomer(monkeypatch):
    """A metric of samples that came after every artifact."""
    known = COLUMNS["gfid"]
    values = {field: getattr(known, field) for field in known.__dataclass_fields__}
    late = type(known)(**values | {"name": "novelty", "promised": False})
    monkeypatch.setitem(COLUMNS, "novelty", late)


def test_a_metric_that_is_newer_than_an_artifact_is_empty_in_its_row(newcomer):
    assert generation_columns([result_of("samples")])["novelty"] is None


def test_a_new_metric_that_one_of_several_sets_of_samples_lacks_has_no_mean(newcomer):
    results = [result_of("samples"), result_of("samples", novelty=3.0)]
    assert generation_columns(results)["novelty"] is None
    assert generation_columns(results[1:])["novelty"] == 3.0


@pytest.mark.parametrize("part", ["samples", "reconstructions", "latents"])
def test_a_metric_that_every_artifact_promises_is_not_missed_in_silence(part):
    whole = result_of(part)
    promised = next(c.name for c in COLUMNS.values() if c.measured_on == part and c.promised)
    assert promised in metrics_of(whole, part)
    del whole[promised]
    with pytest.raises(AssertionError, match=f"must report .*{promised}"):
        metrics_of(whole, part)


def test_a_metric_that_could_not_be_measured_is_empty():
    assert reconstruction_columns(result_of("reconstructions", lpips=None))["lpips"] is None
