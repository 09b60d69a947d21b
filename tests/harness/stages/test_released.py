"""A released generator alone: checkpoint, tokenizer and statistics of latents, and no images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.latents.folder import write_statistics
from harness.plan.plan import make_plan
from harness.plan.requirements import missing_items
from harness.schema.reading import ConfigError
from harness.stages.generator.lightningdit import build
from harness.stages.tokenizer.stage import build_tokenizer
from harness.storage.artifacts import Store
from models.checkpoint import export_generator

ROOT = Path(__file__).parents[3]
MEAN, STD = (0.5, -1.0), (2.0, 3.0)


@pytest.fixture
def released(load, tree, tmp_path, monkeypatch):
    """The small sweep as a released generator would be given, beside no image at all."""
    monkeypatch.syspath_prepend(ROOT / "sweeps" / "examples")
    stages = {stage.kind: stage for stage in make_plan(load()).stages}
    torch.manual_seed(0)
    tokenizer, generator = (
        make(stages[kind].config)
        for kind, make in (("tokenizer", build_tokenizer), ("generator", build))
    )
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"state_dict": tokenizer.state_dict()}, tmp_path / "vae.pt")
    export_generator(build(stages["generator"].config), tmp_path / "dit.pt", ema=generator)
    shape = (1, -1, 1, 1)
    statistics = tmp_path / "latents_stats.pt"
    write_statistics(statistics, torch.tensor(MEAN).view(shape), torch.tensor(STD).view(shape))
    pixels = np.random.default_rng(0).integers(256, size=(64, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "reference.npz", pixels)
    trial = tree["trial"]
    trial["data"] = {
        "kind": "image_folder",
        "name": "not here",
        "root": str(tmp_path / "absent"),
        "resolution": 16,
        "num_classes": 10,
        "num_train_images": 1000,
        "num_eval_images": 100,
    }
    trial["tokenizer"]["checkpoint"] = str(tmp_path / "vae.pt")
    trial["generator"]["checkpoint"] = str(tmp_path / "dit.pt")
    trial["latents"] = {"source": {"kind": "statistics", "path": str(statistics)}}
    images = {"kind": "npz", "path": str(tmp_path / "reference.npz")}
    del trial["evaluation"]["num_reference"]
    trial["evaluation"] |= {
        "extractor": {"kind": "python", "target": "my_encoder:Gradients", "feature_dim": 128},
        "reference": {"kind": "images", "images": images},
        "num_reconstructions": 0,
    }
    return tree


@pytest.mark.reports
def test_a_released_generator_without_images_gives_a_row(command, write, released):
    planned = command(write(released), "--dry-run", "--json").json
    assert planned["missing"] == []
    assert "reconstruction" not in {stage["kind"] for stage in planned["stages"]}
    ended = command(write(released), "--json")
    assert ended.code == 0, ended.err
    (row,) = ended.json["rows"]
    assert (row["status"], row["provenance"], row["rfid"]) == ("done", "published", None)
    assert row["gfid"] > 0
    assert Path("results/small/report.html").is_file()
    generator = Store(Path("artifacts")).get("generator", row["generator_key"])
    assert tuple(generator.result["mean"]) == MEAN
    assert tuple(generator.result["std"]) == STD


def test_what_a_released_generator_lacks_is_named_before_anything_starts(load, released, tmp_path):
    (tmp_path / "latents_stats.pt").unlink()
    source = "trial.evaluation.reference={kind: training_split}"
    found = "\n".join(map(str, missing_items(make_plan(load(source)).stages)))
    assert "latents.source.path" in found
    assert "absent" in found  # The training split, which the reference is made of now.


@pytest.mark.parametrize(
    ("setting", "path", "says"),
    [
        ("generator.checkpoint=null", "latents.source.kind", "set generator.checkpoint"),
        ("latents.source={kind: statistics}", "latents.source.path", "latents_stats.pt"),
        ("evaluation.label_policy=data", "evaluation.label_policy", "no training image is read"),
        ("trial.generator=null", "evaluation.num_reconstructions", "without a generator"),
    ],
)
def test_what_statistics_alone_cannot_do_is_refused(load, released, setting, path, says):
    with pytest.raises(ConfigError, match=says) as refused:
        load(setting)
    assert refused.value.path.endswith(path)


def test_statistics_of_another_latent_are_refused(command, write, released, tmp_path):
    write_statistics(tmp_path / "latents_stats.pt", torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    for more in ([], ["--dry-run"]):
        ended = command(write(released), *more)
        assert ended.code == 2
        assert "trial.latents.source.path" in ended.err
        assert "of shape (1, 2, 1, 1)" in ended.err
