"""What stages are expected to cost, and which of them come first."""

import time

import pytest
from torch.utils import flop_counter

from harness.config.encoders import InDomainEncoder, TimmEncoderConfig
from harness.data.digits import DigitsConfig
from harness.plan import cost
from harness.plan.cost import estimate, estimated_flops
from harness.plan.graph import critical_paths
from harness.plan.plan import in_order, make_plan
from harness.stages import flops as flops_module
from harness.stages.encoder.kind import EncoderStage
from harness.stages.generation import price
from harness.stages.generator import stage as generator_stage
from harness.stages.stage import Stage
from harness.stages.tokenizer.stage import encoding_flops_per_image, flops_per_image


def chain_by_definition(stages: list[Stage], first: Stage) -> float:
    """FLOPs of a stage and of the longest chain behind it."""
    readers = [s for s in stages if any(i.key == first.key for i in s.inputs.values())]
    behind = [chain_by_definition(stages, reader) for reader in readers]
    return estimate(first).flops + max(behind, default=0.0)


def test_the_critical_path_is_the_longest_chain_behind_a_stage(load) -> None:
    stages = list(make_plan(load("grid.alignment=[none, vf]", "grid.seed=[0, 1]")).stages)
    paths = critical_paths(stages, estimated_flops)
    assert paths == {stage.key: chain_by_definition(stages, stage) for stage in stages}
    assert max(paths.values()) > max(estimate(stage).flops for stage in stages)


def test_two_thousand_stages_are_ordered_quickly() -> None:
    network = TimmEncoderConfig(name="resnet18", weights="random")
    stages: list[Stage] = []
    for number in range(2000):
        config = EncoderStage(encoder=network, data=None, weights=f"random {number}")
        inputs = {"encoder": stages[number // 2]} if stages else {}
        stages.append(Stage(kind="encoder", config=config, inputs=inputs, label=f"{number}"))
    started = time.process_time()
    ordered = in_order(reversed(stages))
    paths = critical_paths(ordered, lambda stage: 1.0)
    assert time.process_time() - started < 0.5
    assert len(ordered) == 2000
    place = {stage.key: number for number, stage in enumerate(ordered)}
    assert all(place[i.key] < place[s.key] for s in ordered for i in s.inputs.values())
    assert paths[stages[0].key] == max(paths.values())


def test_images_are_counted_every_time_they_are_worked_through(load) -> None:
    stages = {s.kind: s for s in make_plan(load("latents.flip=true")).stages}
    images = {kind: estimate(stage).images for kind, stage in stages.items()}
    assert images["encoder"] == 2 * 16
    assert images["tokenizer"] == 3 * 8
    assert images["generator"] == 4 * 8
    assert images["latents"] == 2 * DigitsConfig().num_train_images
    assert (images["generation"], images["reconstruction"], images["reference"]) == (40, 40, 100)


def test_latents_cost_the_encoder_alone(load) -> None:
    stage = next(s for s in make_plan(load()).stages if s.kind == "latents")
    encoder = encoding_flops_per_image(stage.inputs["tokenizer"].config)
    assert estimate(stage).flops == estimate(stage).images * encoder
    assert 0 < encoder < flops_per_image(stage.inputs["tokenizer"].config) / 2


def test_a_trained_network_needs_its_state_in_memory(load) -> None:
    stages = {s.kind: s for s in make_plan(load()).stages}
    tokenizer, generator = (estimate(stages[kind]) for kind in ("tokenizer", "generator"))
    # Weights, gradients and two moments; the generator's average is a fifth.
    assert tokenizer.state_bytes == 4 * 4 * tokenizer.parameters
    assert generator.state_bytes == 5 * 4 * generator.parameters
    assert isinstance(stages["encoder"].config.encoder, InDomainEncoder)


def test_stages_that_differ_in_training_alone_share_the_measure_of_their_network(
    load, monkeypatch, tmp_path
) -> None:
    counted: list[str] = []
    monkeypatch.setenv("FRONTIER_CACHE", str(tmp_path / "cache"))
    original = flop_counter.FlopCounterMode

    def counter(**settings):
        counted.append("counted")
        return original(**settings)

    monkeypatch.setattr(flop_counter, "FlopCounterMode", counter)
    monkeypatch.setattr(flops_module, "_known", {})
    monkeypatch.setattr(cost, "_estimates", {})
    one = make_plan(load())
    flops = {stage.kind: estimate(stage).flops for stage in one.stages}
    first = len(counted)
    for stage in make_plan(load("grid.seed=[5, 6, 7]", "generator.training.steps=8")).stages:
        twice = 2 if stage.kind == "generator" else 1
        assert estimate(stage).flops == twice * flops[stage.kind]
    assert len(counted) == first > 0
    # Another process finds them in the user's cache; what is damaged there is counted anew.
    monkeypatch.setattr(flops_module, "_known", {})
    monkeypatch.setattr(cost, "_estimates", {})
    assert {stage.kind: estimate(stage).flops for stage in one.stages} == flops
    assert len(counted) == first
    for damaged in ('["many"]', "[1]", "[NaN, NaN]", "[-1, 2]", "{}"):
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_text(damaged)
        monkeypatch.setattr(flops_module, "_known", {})
        monkeypatch.setattr(cost, "_estimates", {})
        assert {stage.kind: estimate(stage).flops for stage in one.stages} == flops
        assert len(counted) > first


def test_another_size_is_another_network(load) -> None:
    def flops(*settings: str) -> float:
        return estimate(
            next(s for s in make_plan(load(*settings)).stages if s.kind == "tokenizer")
        ).flops

    assert flops("tokenizer.latent_dim=3") > flops()
    assert flops("tokenizer.architecture.base_width=16") > 2 * flops()


def test_the_price_of_a_sample_counts_guidance_and_the_weak_model(load):
    size = "{depth: 2, width: 32, num_heads: 2}"
    weak = f"weak: {{generator.size: {size}}}"
    settings = (
        "{kind: none}",
        "{kind: cfg, scale: 2.0}",
        "{kind: cfg, scale: 2.0, interval_start: 0.3}",
        f"{{kind: autoguidance, scale: 2.0, {weak}}}",
        f"{{kind: autoguidance, scale: 2.0, interval_start: 0.3, {weak}}}",
    )
    sampler = "evaluation.sampler={kind: ab2, num_steps: 5, timestep_shift: 0}"
    plan = make_plan(load(f"evaluation.guidance=[{', '.join(settings)}]", sampler))
    sampled = [row.generator.generations[0] for row in plan.rows if row.generator]
    own, weaker = (
        generator_stage.flops_per_image(sampled[-1].inputs[name].config)
        for name in ("generator", "weak")
    )
    # Four evaluations, of which two are at 0.3 or later.
    twice = [0, 4, 2, 4 * weaker / own, 2 * weaker / own]
    found = [price(stage) for stage in sampled]
    assert [each["sample_evaluations"] for each in found] == pytest.approx([4 + n for n in twice])
    difference = found[1]["sample_flops"] - found[0]["sample_flops"]
    assert difference == pytest.approx(4 * own)
    assert found[0]["sample_flops"] > 4 * own
    # So does the estimate that MFU and forecasts go by.
    flops = [estimate(stage).flops / estimate(stage).images for stage in sampled]
    assert flops[1] - flops[0] == pytest.approx(4 * own)
    assert flops[2] - flops[0] == pytest.approx(2 * own)
    (adaptive,) = make_plan(load("evaluation.sampler.kind=dopri5")).rows
    assert adaptive.generator is not None
    assert price(adaptive.generator.generations[0]) == {}
