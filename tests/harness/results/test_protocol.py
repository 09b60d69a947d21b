"""Protocols: what moves a metric but no weight, and nothing else, makes them differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.plan.plan import make_plan
from harness.results.protocol import generation_protocol, protocol_columns, reconstruction_protocol
from harness.schema.keys import to_plain
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact


def extractor(stage: Stage, weights: str = "a" * 64) -> Artifact:
    files = {"model.safetensors": {"bytes": 1, "sha256": weights}}
    record = {"config": to_plain(stage.config), "files": files}
    return Artifact(path=Path("unused"), record=record)


def hash_of(protocol: Mapping[str, Any]) -> str:
    return protocol_columns(protocol, "protocol", "")["protocol_hash"]


def hashes(sweep, weights: str = "a" * 64) -> tuple[str, str]:
    row = make_plan(sweep).rows[0]
    assert row.generator is not None
    assert row.reconstruction is not None
    used = row.extractor.config, extractor(row.extractor, weights)
    samples = row.generator.generations[0].config, row.generator.reference.config
    return (
        hash_of(generation_protocol(*samples, *used)),
        hash_of(reconstruction_protocol(row.reconstruction.config, *used)),
    )


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1",
        "evaluation.seed=3",
        "tokenizer.latent_dim=3",
        "tokenizer.training.steps=9",
        "generator.size=pico",
        "generator.training.steps=9",
        "latents.posterior=mode",
        "evaluation.batch_size=17",
        "evaluation.sampling_seeds=3",
        "evaluation.keep_samples=true",
        "evaluation.keep=features",
        "evaluation.keep=samples",
    ],
)
def test_models_and_seeds_leave_both_protocols_alone(load, setting):
    assert hashes(load(setting)) == hashes(load())


@pytest.mark.parametrize(
    "setting",
    [
        "evaluation.num_images=50",
        "evaluation.num_reference=90",
        "evaluation.label_policy=balanced",
        "evaluation.sampler.num_steps=4",
        "evaluation.sampler.kind=heun",
        "evaluation.sampler.kind=ab2",
        "evaluation.sampler.kind=dpmpp_2m",
        "evaluation.sampler.group_ends=exact",
        "evaluation.sampler.timestep_shift=0.3",
        "evaluation.guidance=[{kind: cfg, scale: 2.0}]",
        "evaluation.num_reference_features=50",
        "evaluation.sampling_precision=tf32",
    ],
)
def test_what_moves_the_generation_metric_moves_its_protocol_alone(load, setting):
    before, after = hashes(load()), hashes(load(setting))
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    "setting", ["evaluation.num_reconstructions=30", "evaluation.posterior=mode"]
)
def test_what_moves_the_reconstruction_metrics_moves_their_protocol_alone(load, setting):
    before, after = hashes(load()), hashes(load(setting))
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("setting", ["data.resolution=32", "evaluation.extraction.compile=true"])
def test_image_size_and_extraction_move_both_protocols(load, setting):
    assert all(map(str.__ne__, hashes(load()), hashes(load(setting))))


def test_the_weights_of_the_extractor_are_part_of_both_protocols(load):
    assert all(map(str.__ne__, hashes(load()), hashes(load(), "b" * 64)))


def test_settings_that_a_solver_does_not_use_are_no_part_of_its_protocol(load):
    assert hashes(load("evaluation.sampler.atol=1e-3")) == hashes(load())
    adaptive = "evaluation.sampler.kind=dopri5"
    assert hashes(load(adaptive, "evaluation.sampler.num_steps=9")) == hashes(load(adaptive))
    assert hashes(load(adaptive, "evaluation.sampler.atol=1e-3")) != hashes(load(adaptive))


def test_guidance_settings_of_one_trial_have_protocols_of_their_own(load):
    guidance = "evaluation.guidance=[{kind: cfg, scale: 2.0}, {kind: cfg, scale: 3.0}]"
    protocols = set()
    for row in make_plan(load(guidance)).rows:
        assert row.generator is not None
        samples = row.generator.generations[0].config, row.generator.reference.config
        used = row.extractor.config, extractor(row.extractor)
        protocols.add(hash_of(generation_protocol(*samples, *used)))
    assert len(protocols) == 2
