"""The published data flow: crops, cached latents, their statistics, and the way back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.data import open_dataset
from harness.data.latents.training_set import LatentSet
from harness.data.photographs.image_folder import ImageFolderConfig
from harness.data.pixel_range import to_model_range
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.generation import GenerationStage, asked_labels
from harness.stages.stage import Stage
from harness.stages.tokenizer.stage import load_tokenizer
from harness.storage.artifacts import Store
from models.posterior import Posterior

SWEEPS = Path(__file__).parents[3] / "sweeps"
CPU = torch.device("cpu")


@pytest.fixture
def encoded(load, tmp_path):
    """Artifacts of the small sweep's tokenizer and of its latents, mirror images included."""
    store = Store(tmp_path)

    def bring(stage: Stage) -> None:
        for source in stage.inputs.values():
            bring(source)
        assert run_stage(stage, store.root, Resources(), 0.0).status == "done"

    stage = next(s for s in make_plan(load("latents.flip=true")).stages if s.kind == "latents")
    bring(stage)
    tokenizer = stage.inputs["tokenizer"]
    return store.get("tokenizer", tokenizer.key), store.get("latents", stage.key), stage.config


@pytest.mark.parametrize("name", ["imagenet256.yaml", "vavae_released.yaml"])
def test_the_paper_sweeps_use_the_three_published_pipelines(name):
    trial = load_sweep(SWEEPS / name).points[0].trial
    assert isinstance(trial.data, ImageFolderConfig)
    assert (trial.data.crop, trial.data.flip) == ("opencv_crop", False)
    assert trial.latents.crop == trial.evaluation.reference_crop == "adm_center"
    assert trial.evaluation.reconstruction_crop == "resize_center"
    assert (trial.latents.flip, trial.latents.posterior) == (True, "sample")


def test_cached_latents_are_samples_with_noise_of_their_own_for_either_view(encoded):
    tokenizer, latents, config = encoded
    (path,) = latents.path.glob("latents_shard*.safetensors")
    stored = load_file(path)
    pixels = open_dataset(config.data).images("train", np.arange(4))
    images = to_model_range(pixels)
    model = load_tokenizer(tokenizer, CPU)
    noise = {}
    for view, seen in (("latents", images), ("latents_flip", images.flip(-1))):
        assert stored[view].dtype == torch.float32
        posterior = model.encode(seen)
        assert isinstance(posterior, Posterior)
        offset = stored[view][:4] - posterior.mode()
        noise[view] = offset / torch.exp(0.5 * posterior.log_variance)
    assert all(0.5 < n.std() < 1.5 for n in noise.values())
    assert not torch.allclose(noise["latents"], noise["latents_flip"], atol=0.1)


def test_statistics_are_over_unmirrored_images_and_positions_and_are_undone(encoded):
    _, latents, _ = encoded
    (path,) = latents.path.glob("latents_shard*.safetensors")
    stored, statistics = load_file(path), latents.tensors("statistics.safetensors")
    assert statistics["std"].shape == (1, 2, 1, 1)
    everything = stored["latents"].std(dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(statistics["std"], everything, rtol=0.2, atol=0.0)
    normalised, _ = LatentSet(latents, CPU).batch(np.array([0, 1]), np.array([0, 1]))
    expected = torch.stack([stored["latents"][0], stored["latents_flip"][1]])
    torch.testing.assert_close(normalised * statistics["std"] + statistics["mean"], expected)


def test_labels_are_drawn_at_random_unless_asked_otherwise(load):
    stages = make_plan(load()).stages
    config = next(s.config for s in stages if isinstance(s.config, GenerationStage))
    counts = torch.full((10,), 7)
    labels = asked_labels(config, counts)
    assert config.label_policy == "random"
    assert torch.equal(labels, asked_labels(config, counts))
    assert len(set(torch.bincount(labels, minlength=10).tolist())) > 1
