"""Results in Python: what a row's networks give, and the notebook that shows it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import open_results
from harness.data import open_dataset
from harness.data.digits import DigitsConfig
from harness.data.pixel_range import to_model_range, to_uint8
from harness.results.opened import Results

REPOSITORY = Path(__file__).resolve().parents[3]
NOTEBOOK = REPOSITORY / "sweeps" / "examples" / "open_results.ipynb"


@pytest.fixture
def run(finished, tree):
    """Opens the results of the small sweep with both alignments."""

    def run_small(*settings: str) -> Results:
        tree["name"] = "frontier"
        tree["grid"] = {"alignment": ["none", "vf"]}
        finished(tree, *(part for each in settings for part in ("--set", each)))
        return open_results("results/frontier")

    return run_small


def test_a_row_holds_all_that_its_run_has_made(run, tree):
    results = run("evaluation.keep_samples=true", "evaluation.batch_size=16")
    assert len(results.table) == 2
    row = results.row(alignment="vf")
    # The stage's samples, drawn again: 40 in batches of 16.
    kept, generator = row.samples(), row.generator("cpu")
    drawn = generator.sample(kept.labels, seed=row.values["evaluation_seed"])
    assert np.array_equal(drawn.numpy(), kept.images)
    assert not np.array_equal(generator.sample(kept.labels, seed=1).numpy(), kept.images)
    # The tokenizer's reconstruction, as the network gives it.
    tokenizer = row.tokenizer("cpu")
    pixels = drawn[:3]
    assert torch.equal(tokenizer.encode(pixels), tokenizer.encode(kept.images[:3]))
    with torch.no_grad():
        expected = tokenizer.network.decode(tokenizer.network.encode(to_model_range(pixels)).mode())
    assert torch.equal(tokenizer.decode(tokenizer.encode(pixels)), to_uint8(expected))
    # Pictures and curves are its own.
    pictures, others = row.pictures(), results.row(alignment="none").pictures()
    assert list(pictures) == ["samples", "reconstructions"]
    assert all(pictures[what].tobytes() != others[what].tobytes() for what in pictures)
    curves, other = row.curves(), results.row(alignment="none").curves()
    assert set(curves["stage_kind"]) == {"tokenizer", "generator"}
    assert ("vf_cos" in set(curves["term"]), "vf_cos" in set(other["term"])) == (True, False)


def test_guidance_snapshot_and_weak_model_are_those_of_the_row(run, tree):
    tree["trial"]["generator"]["snapshots"] = [2]
    weak = {"kind": "autoguidance", "scale": 2.0, "weak": {"generator.training.steps": 3}}
    tree["trial"]["evaluation"]["guidance"] = [{"kind": "none"}, weak]
    results = run("evaluation.keep_samples=true", "grid.alignment=[none]")
    with pytest.raises(
        ValueError, match=r"generator_images \(16\.0, 32\.0\), guidance \(none, auto"
    ):
        results.row()
    rows = results.rows(generator_images=16)
    assert [row.values["guidance"] for row in rows] == ["none", "autoguidance 2"]
    for row, weak_step in zip(rows, (None, 3), strict=True):
        sampling = row.generator("cpu").sampling
        assert (sampling.config.step, sampling.config.weak_step) == (2, weak_step)
        assert (sampling.weak is None) == (weak_step is None)
        drawn = row.generator("cpu").sample(row.samples().labels)
        assert np.array_equal(drawn.numpy(), row.samples().images)
    first, second = (row.pictures()["samples"].tobytes() for row in rows)
    assert first != second


def test_wrong_requests_are_told_what_is_right(run, tmp_path):
    results = run("grid.alignment=[none]")
    row = results.row()
    with pytest.raises(ValueError, match="did you mean 'alignment'"):
        results.rows(alignmnt="vf")
    with pytest.raises(ValueError, match="0 of 1 do"):
        results.row(alignment="vf")
    with pytest.raises(ValueError, match=r"evaluation\.keep=samples"):
        row.samples()
    for images in (torch.zeros(1, 3, 16, 16), torch.zeros(3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            row.tokenizer().encode(images)
    for labels in ([], [10], [-1], np.array([0.5]), np.array([[1]])):
        with pytest.raises(ValueError, match="classes from 0 to 9"):
            row.generator().sample(labels)
    with pytest.raises(ValueError, match="must be in the store"):
        open_results("results/frontier", store=tmp_path).row().tokenizer()
    with pytest.raises(ValueError, match="nowhere"):
        open_results(tmp_path / "nowhere")


def test_plug_ins_of_the_sweep_are_imported_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copy(REPOSITORY / "results" / "reference" / "frontier" / "table.csv", tmp_path)
    (tmp_path / "sweep.yaml").write_text("plugins: [kinds_of_opened_results]")
    with pytest.raises(ValueError, match="no module 'kinds_of_opened_results'"):
        open_results(tmp_path)
    (tmp_path / "kinds_of_opened_results.py").write_text("")
    assert len(open_results(tmp_path).rows(alignment="vf", latent_dim=8)) == 6
    assert "kinds_of_opened_results" in sys.modules


def test_a_tokenizer_alone_has_no_generator(run, tree):
    tree["trial"]["generator"] = None
    row = run("grid.alignment=[none]").row()
    assert list(row.pictures()) == ["reconstructions"]
    with pytest.raises(ValueError, match="must have a generation"):
        row.generator()
    images = open_dataset(DigitsConfig(resolution=16)).images("eval", np.arange(2))
    assert row.tokenizer().decode(row.tokenizer().encode(images)).shape == images.shape


def test_the_notebook_runs_from_top_to_bottom(run, capsys):
    run("evaluation.keep_samples=true", "evaluation.batch_size=16")
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "the notebook is kept without what it has shown"
            exec(compile("".join(cell["source"]), f"cell {cell['id']}", "exec"), names)
    told = capsys.readouterr().out
    assert "(3, 16, 16) pixels become (2, 4, 4) latents" in told
    assert "40 samples of classes" in told
