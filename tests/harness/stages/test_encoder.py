"""Weights of feature networks in the store: kept as the kind of file that they came as."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inception
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.metrics.extractors import ExtractionConfig, InceptionConfig, InceptionExtractor
from harness.plan.plan import make_plan
from harness.stages.encoder.kind import EncoderStage
from harness.stages.encoder.stage import extractor_identity, load_extractor
from harness.stages.running import context
from harness.stages.stage import Stage
from harness.storage.artifacts import Store, Work
from harness.storage.durable import file_sha256


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights in the layout of torch-fidelity's file, built without fetching it."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        return inception.FeatureExtractorInceptionV3("random", ["2048"]).state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_inception_from_either_kind_of_file_is_read_back_from_the_store(state, tmp_path, suffix):
    path = tmp_path / f"random{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    config = InceptionConfig(weights=str(path), sha256=file_sha256(path)[:12])
    stage = Stage(
        kind="encoder",
        config=EncoderStage(encoder=config, data=None, weights="random"),
        inputs={},
        label="inception",
    )
    store = Store(tmp_path / "artifacts")
    outcome = run_stage(stage, store.root, Resources(), gpus=0)
    assert outcome.status == "done", outcome.error
    artifact = store.get("encoder", stage.key)
    loaded = load_extractor(artifact, torch.device("cpu"), ExtractionConfig())
    assert loaded.identity == extractor_identity(artifact) == file_sha256(path)
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(loaded.features(images), InceptionExtractor(config).features(images))


def test_a_trained_encoder_tells_how_far_the_measurement_of_its_accuracy_is(
    load, tmp_path, monkeypatch
):
    told: list[Mapping[str, Any]] = []
    monkeypatch.setattr(context, "REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(Work, "report", lambda self, progress: told.append(progress))
    stage = next(s for s in make_plan(load()).stages if s.kind == "encoder")
    assert run_stage(stage, tmp_path, Resources(), 0.0).status == "done"
    measured = [each for each in told if each.get("measuring") == "accuracy"]
    # 360 images of the evaluation split, then 1,437 of the training split, 500 at a time.
    assert [each["step"] for each in measured] == [0, 360, 860, 1360, 1797]
    assert {each["total"] for each in measured} == {1797}
    assert "eta_s" not in measured[0]
    assert measured[-1]["eta_s"] == 0
