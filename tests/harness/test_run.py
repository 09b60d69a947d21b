"""The command on a small sweep: what it runs, what it repeats and what it leaves behind."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from harness.execution.stage_run import Outcome
from harness.executors import StageEvent
from harness.executors.inline import InlineExecutor
from harness.results.columns import COLUMNS


@pytest.mark.reports
def test_a_small_sweep_runs_and_repeats_nothing(command, write, tree):
    tree["grid"] = {"alignment": ["none", "vf"]}
    path = write(tree)
    first = command(path)
    assert first.code == 0, first.err
    assert "executed 13 stages, reused 0" in first.out
    table = Path("results/small/table.parquet").read_bytes()
    second = command(path)
    assert (second.code, second.err) == (0, "")
    assert "executed 0 stages, reused 13" in second.out
    assert Path("results/small/table.parquet").read_bytes() == table


@pytest.mark.reports
def test_figures_are_drawn_again_only_where_they_are_missing_or_of_another_table(
    command, write, tree
):
    path, figure = write(tree), Path("results/small/figures/frontier.png")
    command(path)
    drawn, when = figure.read_bytes(), figure.stat().st_mtime_ns
    command(path)
    assert figure.stat().st_mtime_ns == when
    figure.unlink()
    command(path)
    assert figure.read_bytes() == drawn
    # As a run leaves it that was killed after it wrote its table and before it drew.
    note = figure.with_name("drawn.json")
    note.write_text(note.read_text().replace('"table_sha256": "', '"table_sha256": "0'))
    figure.write_bytes(b"of another table")
    command(path)
    assert figure.read_bytes() == drawn


def test_a_further_axis_value_runs_what_is_new_only(command, write, tree):
    path = write(tree)
    assert "executed 7 stages" in command(path, "--set", "grid.tokenizer.latent_dim=[2]").out
    more = command(path, "--set", "grid.tokenizer.latent_dim=[2, 3]")
    assert "executed 5 stages, reused 7" in more.out
    assert len(pd.read_csv("results/small/table.csv")) == 2


@pytest.mark.reports
def test_a_table_of_other_settings_is_kept_and_the_report_leads_to_it(command, write, tree):
    path, results = write(tree), Path("results/small")
    command(path)
    before = {name: (results / name).read_bytes() for name in ("table.csv", "curves.parquet")}
    assert "other settings" not in command(path, "--set", "resources.default={cpus: 1}").err
    ended = command(path, "--set", "evaluation.num_images=41")
    assert "it is kept below earlier/" in ended.err
    (kept,) = (results / "earlier").iterdir()
    assert {name: (kept / name).read_bytes() for name in before} == before
    assert f'href="earlier/{kept.name}/report.html"' in (results / "report.html").read_text()
    assert (kept / "report.html").is_file()
    assert "other settings" not in command(path, "--replace").err
    assert list((results / "earlier").iterdir()) == [kept]


def test_snapshots_and_every_kind_of_guidance_are_measured(command, write, tree):
    tree["trial"]["generator"]["snapshots"] = [2]
    tree["trial"]["generator"]["ema"] = {"decay": 0.1}
    tree["trial"]["generator"]["training"]["learning_rate"] = 0.1
    tree["trial"]["evaluation"]["guidance"] = [
        {"kind": "none"},
        {"kind": "cfg", "scale": 5.0},
        {"kind": "autoguidance", "scale": 2.0, "weak": {"generator.training.steps": 3}},
    ]
    planned = command(write(tree), "--dry-run").out
    assert "step 2, guidance cfg 5" in planned
    assert "step 4, guidance autoguidance 2" in planned
    ended = command(write(tree), "--json")
    assert ended.code == 0, ended.err
    rows = ended.json["rows"]
    assert [row["guidance"] for row in rows] == 2 * ["none", "cfg 5", "autoguidance 2"]
    assert [row["generator_images"] for row in rows] == 3 * [16] + 3 * [32]
    assert all(row["gfid"] is not None for row in rows)
    assert len({row["gfid"] for row in rows[3:]}) == 3
    assert len({row["rfid"] for row in rows}) == 1


def test_only_one_kind_runs_it_with_what_it_needs_and_leaves_rows_pending(command, write, tree):
    path = write(tree)
    ended = command(path, "--only", "latents")
    assert ended.code == 0, ended.err
    assert "executed 2 stages" in ended.out
    assert "1 rows are pending" in ended.out
    assert sorted(p.name for p in Path("artifacts").glob("[!.]*")) == ["latents", "tokenizer"]
    assert "executed 5 stages, reused 2" in command(path).out


def test_an_artifact_that_nothing_needs_any_more_is_not_made_again(command, write, tree):
    path = write(tree)
    command(path, "--only", "latents")
    command(path)
    (latents,) = Path("artifacts/latents").iterdir()
    for file in latents.iterdir():
        file.unlink()
    latents.rmdir()
    assert "executed 0 stages" in command(path).out


def test_the_stored_sweep_says_what_was_run_and_runs_the_same(command, write, tree):
    path = write(tree)
    command(path, "--only", "encoder", "--set", "generator.training.steps=3")
    stored = Path("results/small/sweep.yaml")
    assert yaml.safe_load(stored.read_text())["trial"]["generator"]["training"]["steps"] == 3
    expected = command(path, "--dry-run", "--json", "--set", "generator.training.steps=3").json
    assert command(stored, "--dry-run", "--json").json == expected


def test_results_and_artifacts_go_where_they_are_asked_to(command, write, tree):
    ended = command(write(tree), "--only", "encoder", "--results", "out", "--store", "kept/here")
    assert ended.code == 0, ended.err
    assert Path("out/small/table.csv").is_file()
    assert Path("kept/here/encoder").is_dir()
    assert not Path("results").exists()


def test_the_table_says_what_its_columns_mean(finished, tree):
    finished(tree, "--only", "encoder")
    schema = pq.read_schema("results/small/table.parquet")
    assert schema.names == list(COLUMNS)
    for name, column in COLUMNS.items():
        known = {key.decode(): text.decode() for key, text in schema.field(name).metadata.items()}
        assert known == column.metadata()
        assert known["description"] == column.meaning


def test_the_manifest_names_command_stages_and_machine(finished, tree):
    finished(tree, "--only", "encoder")
    manifest = json.loads(Path("results/small/manifest.json").read_text())
    assert manifest["environment"]["torch"]
    statuses = {stage["kind"]: stage["status"] for stage in manifest["stages"]}
    assert statuses["encoder"] == "done"
    assert statuses["generation"] == "not run"


def test_a_run_that_loses_its_machines_still_leaves_table_and_events(
    command, write, tree, monkeypatch
):
    def lose(self, stages, store_root, resources, listen, *rest):
        bad = next(stage for stage in stages if stage.kind == "tokenizer")
        outcome = Outcome(key=bad.key, status="failed", error="on fire", failure="error")
        listen(StageEvent(stage=bad, what="ended", outcome=outcome))
        raise ConnectionError("the head must answer, but has not for 20 s")

    monkeypatch.setattr(InlineExecutor, "run", lose)
    ended = command(write(tree))
    assert ended.code == 1
    assert "the head must answer, but has not for 20 s; what is finished is kept" in ended.err
    (row,) = pd.read_parquet("results/small/table.parquet").to_dict("records")
    assert (row["status"], row["failure_kind"]) == ("blocked", "error")
    assert "on fire" in row["error"]
    last = json.loads(Path("results/small/events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["status"]) == ("sweep_ended", "error")
    assert last["stages"] == {"failed": 1}
