"""The cascade as a kind of generator; with one resolution it is a LightningDiT."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d
from torch.utils.flop_counter import FlopCounterMode

from harness.commands.conformance import findings
from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.data import open_dataset
from harness.data.latents.training_set import LatentSet
from harness.data.pixel_range import to_model_range
from harness.execution.stage_run import run_stage
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.generation import price
from harness.stages.generator import lowdiff
from harness.stages.generator import stage as generator_stage
from harness.stages.generator.kinds import kind_of
from harness.stages.tokenizer.stage import load_tokenizer
from harness.storage.artifacts import Store
from models.guidance import ClassifierFreeGuidance
from models.objectives.cascade import CascadeObjective, reduce

SWEEPS = Path(__file__).parents[4] / "sweeps"
TWO = "generator.resolutions=[{side: 2}, {side: 4}]"
ONE = "generator.resolutions=[{side: 4}]"
STEPS = "evaluation.sampler={kind: cascade, stages: [{num_steps: 5}, {kind: heun, num_steps: 2}]}"
GUIDED = "evaluation.guidance=[{kind: none}, {kind: cfg, scale: 2.0, interval_start: 0.3}]"


@pytest.fixture
def tree(tree):
    tree["trial"]["generator"] |= {"kind": "lowdiff", "patch_size": 1}
    return tree


def bring(stage, store: Store):
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


def test_with_one_resolution_training_and_samples_are_the_plain_ones_bit_for_bit(
    load, tree, tmp_path
):
    store = Store(tmp_path / "store")

    def made(*settings: str):
        stages = {stage.kind: stage for stage in make_plan(load(*settings)).stages}
        return bring(stages["generator"], store), bring(stages["generation"], store)

    ours, samples = made(ONE, "evaluation.sampler={kind: cascade, stages: [{num_steps: 5}]}")
    tree["trial"]["generator"]["kind"] = "lightningdit"
    plain, plain_samples = made("evaluation.sampler={kind: euler, num_steps: 5}")
    assert ours.record["key"] != plain.record["key"]
    own = {n: file for n, file in ours.record["files"].items() if "tensorboard" not in n}
    assert own == {n: f for n, f in plain.record["files"].items() if "tensorboard" not in n}
    assert samples.result == plain_samples.result


def test_a_cascade_gives_rows_and_runs_uncascaded_too(command, write, tree):
    tree["trial"]["generator"]["resolutions"] = [{"side": 2}, {"side": 4}]
    # Samples must depend on the labels visibly, after few steps.
    tree["trial"]["generator"] |= {"ema": {"decay": 0.0}}
    tree["trial"]["generator"]["training"]["learning_rate"] = 0.05
    tree["trial"]["evaluation"]["guidance"] = [{"kind": "none"}, {"kind": "cfg", "scale": 2.0}]
    stages = [{"num_steps": 5}, {"num_steps": 2, "guidance_scale": 1.0}]
    tree["presets"]["sampler"] = {
        "full alone": {"evaluation.sampler": {"kind": "euler", "num_steps": 3}},
        "4+1": {"evaluation.sampler": {"kind": "cascade", "stages": stages}},
    }
    del tree["trial"]["evaluation"]["sampler"]
    tree["grid"] = {"sampler": ["full alone", "4+1"]}
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("results/small/table.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == 4 * ["done"]
    assert len({row["generator_key"] for row in rows}) == 1
    assert {row["generator"] for row in rows} == {"lowdiff"}
    assert {row["provenance"] for row in rows} == {"reconstruction"}
    evaluations = [float(row["sample_evaluations"]) for row in rows]
    assert evaluations[:2] == [2, 4]
    assert 1 < evaluations[2] < 2.5
    assert evaluations[3] > evaluations[2]
    assert all(float(row["sample_images_per_s"]) > 0 for row in rows)
    assert len({row["gfid"] for row in rows}) == 4
    generator = Store(Path("artifacts")).get("generator", rows[0]["generator_key"])
    lines = [json.loads(line) for line in (generator.path / "curve.jsonl").read_text().splitlines()]
    assert all(line["largest_loss"] > 0 for line in lines)
    assert {name for line in lines for name in line} <= {
        *("step", "largest_loss", "velocity_mse_2", "velocity_direction_2"),
        *("velocity_mse_4", "velocity_direction_4"),
    }


@pytest.mark.parametrize("number", [0, 1])
def test_the_evaluations_of_a_sample_are_its_counted_flops(load, number):
    plan = make_plan(load(TWO, STEPS, GUIDED, "evaluation.sampler.condition_noise=0"))
    (stage,) = plan.rows[number].generator.generations
    config = stage.inputs["generator"].config
    kind, asked = kind_of(config.generator), stage.config
    model, labels = kind.build(config).eval(), torch.tensor([0, 1, 2])
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        random = torch.Generator().manual_seed(0)
        kind.draw(model, labels, random, asked.sampler, asked.guidance)
    counted = counter.get_total_flops() / len(labels) / generator_stage.flops_per_image(config)
    assert price(stage)["sample_evaluations"] == pytest.approx(counted, rel=1e-6)
    guided = isinstance(asked.guidance, ClassifierFreeGuidance)
    assert counted > 2 if guided else 2 < counted < 4


def test_training_is_priced_by_resolutions_and_their_probabilities(load):
    def share(*settings: str) -> float:
        (stage,) = (s for s in make_plan(load(*settings)).stages if s.kind == "generator")
        whole = generator_stage.flops_per_image(stage.config) * 3 * 4 * 8
        return generator_stage.training_flops(stage.config, None) / whole

    assert share(ONE) == 1.0
    even = share(TWO)
    assert 0.5 < even < 0.7
    low = 2 * even - 1
    weighted = share("generator.resolutions=[{side: 2, probability: 3}, {side: 4}]")
    assert weighted == pytest.approx((3 * low + 1) / 4)


@pytest.mark.parametrize("name", ["lowdiff", "lowdiff_cifar10", "lowdiff_imagenet256"])
def test_shipped_cascades_are_trained_as_long_as_the_plain_generator_in_flops(name):
    by_latent: dict[str, list[float]] = {}
    for stage in make_plan(load_sweep(SWEEPS / f"{name}.yaml")).stages:
        if stage.kind == "generator":
            layout = str(stage.config.layout)
            flops = generator_stage.training_flops(stage.config, None)
            by_latent.setdefault(layout, []).append(flops)
    for flops in by_latent.values():
        assert len(set(flops)) == 2
        assert max(flops) / min(flops) < 1.01


def test_lower_resolutions_are_normalised_by_their_own_statistics(load, tmp_path):
    (stage,) = (s for s in make_plan(load(TWO)).stages if s.kind == "generator")
    encoded = bring(stage.inputs["latents"], Store(tmp_path / "store"))
    latents = LatentSet(encoded, torch.device("cpu"))
    objective = lowdiff.measure(lowdiff.objective(stage.config), latents)
    positions = torch.arange(len(latents)).numpy()
    clean, _ = latents.batch(positions, 0 * positions)
    low = objective.at(clean, 0, {})
    assert float(reduce(clean, 2).std()) < 0.9
    torch.testing.assert_close(low.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(low.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)
    assert torch.equal(objective.at(clean, 1, {}), clean)


def test_lower_resolutions_may_be_encoded_from_smaller_images(load, tmp_path):
    asked = (TWO, "generator.lower=images", "latents.flip=true", "latents.posterior=mode")
    stages = {stage.kind: stage for stage in make_plan(load(*asked)).stages}
    stage, store, device = stages["generator"], Store(tmp_path / "store"), torch.device("cpu")
    latents = LatentSet(bring(stages["latents"], store), device)
    positions = torch.arange(5).numpy()
    tokenizer = load_tokenizer(bring(stages["tokenizer"], store), device)
    images = open_dataset(stages["latents"].config.data).images("train", positions)
    small = avg_pool2d(to_model_range(images), 2)
    with torch.no_grad():
        for view, pixels in enumerate((small, small.flip(-1))):
            found = latents.lower(positions, 0 * positions + view)["lower_2"]
            torch.testing.assert_close(found, tokenizer.encode(pixels).mode())
    objective = lowdiff.measure(lowdiff.objective(stage.config), latents)
    given = latents.lower(torch.arange(len(latents)).numpy(), np.zeros(len(latents), int))
    low = objective.at(torch.zeros(len(latents), 2, 4, 4), 0, given)
    torch.testing.assert_close(low.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(low.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-4, rtol=0)


def test_encoded_lower_resolutions_are_what_is_learnt_resumed_too(load, monkeypatch):
    seen: list[torch.Tensor] = []
    at = CascadeObjective.at

    def spy(self, clean, number, draws):
        found = at(self, clean, number, draws)
        if number == 0:
            (mean, std), average = self.statistics[0], reduce(clean, 2)
            assert found.shape == average.shape
            seen.append(found - (average - mean) / std)
        return found

    monkeypatch.setattr(CascadeObjective, "at", spy)
    asked = (TWO, STEPS, "generator.lower=images", "generator.training.steps=6")
    assert [each for each in findings(load(*asked)) if each.error] == []
    assert seen
    assert all(float(each.abs().max()) > 1e-3 for each in seen)
    plain, encoded = (make_plan(load(TWO, *more)) for more in ((), asked[2:3]))
    larger, smaller = (
        next(estimate(s) for s in plan.stages if s.kind == "latents") for plan in (encoded, plain)
    )
    assert larger.flops == pytest.approx(1.25 * smaller.flops)
    assert larger.disk_bytes == pytest.approx(1.25 * smaller.disk_bytes)


def test_given_latents_have_no_smaller_images(load, tmp_path):
    source = f"latents.source={{kind: folder, path: {tmp_path}}}"
    with pytest.raises(ConfigError, match="no smaller image is encoded"):
        load(TWO, "generator.lower=images", source)


def test_it_keeps_to_what_every_kind_must_resumed_too(load):
    found = list(findings(load(TWO, STEPS, "generator.training.steps=6")))
    assert any("generator: resumed from a checkpoint" in each.what for each in found)
    assert [each for each in found if each.error] == []


REFUSED = {
    "falling sides": (("generator.resolutions=[{side: 4}, {side: 2}]",), "of rising side"),
    "four resolutions": (
        ("generator.resolutions=[{side: 1}, {side: 2}, {side: 3}, {side: 4}]",),
        "one to three",
    ),
    "a side that does not divide": (
        ("generator.resolutions=[{side: 3}, {side: 4}]",),
        "must divide the latent side 4",
    ),
    "another last side": (("generator.resolutions=[{side: 2}]",), "which the last one is"),
    "steps for one of two": (
        (TWO, "evaluation.sampler={kind: cascade, stages: [{num_steps: 5}]}"),
        "must be 2, one for each of generator.resolutions, but are 1",
    ),
    "no probability": (
        ("generator.resolutions=[{side: 2, probability: 0}, {side: 4}]",),
        "must be above 0",
    ),
    "a weak model of other resolutions": (
        (
            TWO,
            STEPS,
            "evaluation.guidance=[{kind: autoguidance, scale: 2, weak: {generator.resolutions: "
            "[{side: 1}, {side: 4}]}}]",
        ),
        "must be the guided generator's, [2, 4], but are [1, 4]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(load, case):
    settings, words = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        make_plan(load(*settings))
    assert words in refused.value.message


def test_a_plain_generator_takes_no_cascade(load, tree):
    tree["trial"]["generator"]["kind"] = "lightningdit"
    with pytest.raises(ConfigError, match="all that a generator of kind 'lightningdit'"):
        load(STEPS)
