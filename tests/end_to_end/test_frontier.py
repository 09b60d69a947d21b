"""The shipped sweep, cut down, from file to figure, through both executors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.table.columns import REQUIRED_COLUMNS
from harness.results.columns import COLUMNS
from harness.run import main

ROOT = Path(__file__).parents[2]
CUT = (
    "grid.tokenizer.latent_dim=[4]",
    "grid.seed=[0]",
    "tokenizer.training.steps=8",
    "generator.training.steps=12",
    "evaluation.num_images=200",
    "evaluation.diagnostics.num_vectors=100",
    "evaluation.sampler.num_steps=6",
    "evaluation.extractor.training.steps=6",
    "presets.alignment.vf.tokenizer.alignment.encoder.training.steps=6",
    "tokenizer.training.warmup_steps=0",
    "generator.training.warmup_steps=0",
    "evaluation.extractor.training.warmup_steps=0",
    "presets.alignment.vf.tokenizer.alignment.encoder.training.warmup_steps=0",
)
METRICS = ["rfid", "psnr", "ssim", "gfid", "label_accuracy", "extractor_accuracy"]
EXECUTORS = ("inline", "ray")


def arguments(*more: str) -> list[str]:
    return ["frontier.yaml", *(part for setting in CUT for part in ("--set", setting)), *more]


def start(folder: Path, executor: str) -> subprocess.Popen[str]:
    """Only the report under Ray is looked at; the other one is left out."""
    left_out = [] if executor == "ray" else [str(ROOT / "tests" / "chaos" / "faults")]
    path = os.pathsep.join([*left_out, str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", "harness.run", *arguments("--executor", executor)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Working directory of each executor's run, both with their results."""
    folders = {name: tmp_path_factory.mktemp(name) for name in EXECUTORS}
    for folder in folders.values():
        shutil.copy(ROOT / "sweeps" / "frontier.yaml", folder)
    running = [start(folders[name], name) for name in EXECUTORS]
    ended = [(*process.communicate(timeout=400), process.returncode) for process in running]
    for out, err, code in ended:
        assert code == 0, err[-3000:]
        assert "executed 19 stages, reused 0" in out
    return folders


@pytest.fixture
def again(folders, monkeypatch, capsys):
    """Runs the command once more, in this process, where an executor has already been."""

    def run(executor: str, *more: str) -> str:
        monkeypatch.chdir(folders[executor])
        assert main(arguments("--executor", executor, *more)) == 0
        return capsys.readouterr().out

    return run


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results" / "frontier" / "table.parquet")


def test_both_executors_give_the_same_table_bit_for_bit(folders):
    inline, ray = (table(folders[name]) for name in EXECUTORS)
    timed = {
        "tokenizer_s",
        "generator_s",
        "generation_s",
        "sample_images_per_s",
        "sample_tokens_per_s",
        "created",
        "git_revision",
    }
    same = [column for column in COLUMNS if column not in timed]
    pd.testing.assert_frame_equal(inline[same], ray[same], check_exact=True)
    assert inline[METRICS].notna().all().all()


def test_the_rows_are_done_and_complete(folders):
    frame = table(folders["inline"])
    assert list(frame["status"]) == ["done"] * 4
    assert set(frame["alignment"]) == {"none", "vf"}
    assert frame["generator_size"].nunique() == 2
    assert frame["tokenizer_key"].nunique() == 2
    assert set(frame["distance_name"]) == {"in-domain Fréchet distance"}
    assert frame["protocol_hash"].nunique() == 1


def test_the_results_folder_holds_what_the_readme_promises(folders):
    folder = folders["ray"] / "results" / "frontier"
    frame = table(folders["ray"])
    expected = ["sweep.yaml", "manifest.json", "table.parquet", "table.csv"]
    expected += [f"figures/frontier.{end}" for end in ("png", "svg")]
    expected += [f"rows/{row}.json" for row in frame["row_id"]]
    for _, row in frame.iterrows():
        name = " ".join(
            f"{short}={row[f'axis.{axis}']}"
            for axis, short in {
                "tokenizer.latent_dim": "latent_dim", "alignment": "alignment",
                "generator.size": "size", "seed": "seed",
            }.items()
        )  # fmt: skip
        expected += [f"grids/{name} samples.png", f"grids/{name} reconstructions.png"]
        expected += [f"tensorboard/generator {name}"]
    assert [name for name in expected if not (folder / name).stat().st_size] == []
    csv = pd.read_csv(folder / "table.csv")
    assert list(csv.columns) == list(frame.columns)
    axes = [name for name in frame.columns if name.startswith("axis.")]
    assert axes == [
        "axis.tokenizer.latent_dim", "axis.alignment", "axis.generator.size", "axis.seed",
    ]  # fmt: skip
    assert [name for name in frame.columns if name not in axes] == list(COLUMNS)


def test_a_number_can_be_traced_to_its_stage_and_settings(folders):
    folder = folders["ray"]
    manifest = json.loads((folder / "results/frontier/manifest.json").read_text())
    assert all(stage["status"] == "done" for stage in manifest["stages"])
    for row in table(folder).to_dict("records"):
        path = folder / "artifacts" / "generator" / row["generator_key"] / "artifact.json"
        record = json.loads(path.read_text())
        assert record["config"]["generator"]["seed"] == row["generator_seed"]
        assert record["environment"]["git_revision"]
        assert record["cost"]["wall_s"] == row["generator_s"]


def test_nothing_in_the_store_is_pickled(folders):
    files = [path for path in (folders["ray"] / "artifacts").rglob("*") if path.is_file()]
    curves = [path for path in files if path.name.startswith("events.out.tfevents.")]
    kinds = {path.suffix for path in files if path not in curves}
    assert kinds <= {".json", ".jsonl", ".safetensors", ".png", ".txt"}
    # What pickles, and archives of pickles (`torch.save`), begin with.
    pickled = (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")
    assert not [path for path in files if path.read_bytes().startswith(pickled)]


def test_the_same_command_again_executes_nothing_and_starts_no_executor(
    folders, again, monkeypatch
):
    monkeypatch.setattr(
        "harness.commands.run_stages._make_executor", lambda *_: pytest.fail("an executor was made")
    )
    before = table(folders["ray"])
    assert "executed 0 stages, reused 19" in again("ray")
    pd.testing.assert_frame_equal(table(folders["ray"]), before)


def test_a_further_axis_value_runs_only_what_is_new(again):
    more = ("--set", "grid.tokenizer.latent_dim=[4, 8]", "--dry-run", "--json")
    plan = json.loads(again("inline", *more))
    assert (plan["to_run"], plan["to_reuse"]) == (16, 19)
    assert {stage["state"] for stage in plan["stages"] if stage["kind"] == "encoder"} == {"reuse"}


def test_the_table_has_every_column_that_the_analysis_reads():
    assert set(REQUIRED_COLUMNS) <= set(COLUMNS)
