"""The look at latents: a stage for each tokenizer, and the columns of its rows."""

import csv
from pathlib import Path

import pandas as pd

from harness.plan.plan import make_plan
from harness.results.columns import COLUMNS

ASKED = "evaluation.diagnostics={kind: latents, num_images: 300, num_vectors: 100}"


def test_the_numbers_stand_in_every_row_of_the_tokenizer(command, write, tree):
    tree["grid"] = {"generator.seed": [0, 1]}
    ended = command(write(tree), "--set", ASKED)
    assert ended.code == 0, ended.err
    first, second = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    looked_at = [column.name for column in COLUMNS.values() if column.measured_on == "latents"]
    assert len(looked_at) == 6
    for name in looked_at:
        assert first[name] == second[name] != ""
    assert 0 < float(first["linear_probe_accuracy"]) < 1
    assert float(first["channel_std_ratio"]) >= 1


def test_without_the_question_no_stage_is_planned_and_no_key_moves(load):
    plain, asked = make_plan(load()), make_plan(load(ASKED))
    added = set(asked.stages) - set(plain.stages)
    assert {stage.kind for stage in added} == {"diagnostics"}
    assert set(plain.stages) < set(asked.stages)


def test_training_curves_lie_beside_the_table(finished, tree):
    finished(tree)
    curves = pd.read_parquet("results/small/curves.parquet")
    assert set(curves["stage_kind"]) == {"tokenizer", "generator"}
    generator = curves[(curves["stage_kind"] == "generator") & (curves["term"] == "velocity_mse")]
    assert generator["images"].tolist() == [8, 16, 24, 32]
