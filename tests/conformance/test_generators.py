"""One suite for every kind of generator that a sweep file can ask for."""

import pytest
import torch

from harness.schema.reading import validate
from harness.stages.generator.kind import GeneratorStage
from harness.stages.generator.kinds import kind_of
from models.guidance import AutoGuidance, ClassifierFreeGuidance, NoGuidance
from models.objectives.objective import rows_of
from models.parameters import num_parameters
from models.sampler import SamplerConfig

ONE_GROUP = [{"name": "image", "channels": 4}]
TWO_GROUPS = [{"name": "texture", "channels": 3}, {"name": "semantic", "channels": 1}]

GUIDANCES = {
    "none": NoGuidance(),
    "cfg": ClassifierFreeGuidance(scale=2.0),
    "autoguidance": AutoGuidance(scale=2.0),
}
CHOICES = {
    "published switches": {},
    "patches of two": {"patch_size": 2},
    "patches of the whole latent": {"patch_size": 4},
    "normalised queries and keys": {"qk_norm": True},
    "plain feed-forward": {"swiglu": False},
    "layer norm": {"rmsnorm": False},
    "no rotary positions": {"rope": False},
    "no shift": {"adaln_shift": False},
    "uniform times": {"flow": {"time": "uniform"}},
    "no direction term": {"flow": {"velocity_direction_weight": 0.0}},
    "two groups, shared time": {"groups": TWO_GROUPS},
    "two groups, own times": {"groups": TWO_GROUPS, "flow": {"group_times": "independent"}},
    "two groups, one ahead": {
        "groups": TWO_GROUPS,
        "flow": {"offset": 0.3, "group_weights": {"semantic": 2.0}},
        "time_groups": "by_offset",
    },
    "two groups, one after the other": {"groups": TWO_GROUPS, "flow": {"offset": 1.0}},
    "one resolution": {"kind": "lowdiff", "resolutions": [{"side": 4}]},
    "three resolutions": {
        "kind": "lowdiff",
        "resolutions": [{"side": 1}, {"side": 2, "weight": 2.0}, {"side": 4, "shift": 0.5}],
    },
    "two groups at two resolutions": {
        "kind": "lowdiff",
        "groups": TWO_GROUPS,
        "flow": {"offset": 0.3},
        "resolutions": [{"side": 2}, {"side": 4}],
    },
}


@pytest.fixture(params=CHOICES)
def stage(request) -> GeneratorStage:
    choice = dict(CHOICES[request.param])
    groups = choice.pop("groups", ONE_GROUP)
    generator = {
        "size": {"depth": 2, "width": 16, "num_heads": 2},
        "seed": 0,
        "training": {"steps": 1, "batch_size": 2, "learning_rate": 1e-3},
        **choice,
    }
    layout = {"groups": groups, "height": 4, "width": 4}
    return validate(GeneratorStage, {"generator": generator, "layout": layout, "num_classes": 3})


def test_a_step_of_training_reaches_every_trained_parameter(stage):
    torch.manual_seed(0)
    kind, random = kind_of(stage.generator), torch.Generator().manual_seed(0)
    model, objective = kind.build(stage), kind.objective(stage)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for step in range(3):  # A fresh network has zero gates: gradients pass them only after a step.
        optimizer.zero_grad()
        clean = torch.randn(5, *stage.layout.shape, generator=random)
        draws = objective.draw(torch.tensor([0, 1, 2, 1, 0]), stage.layout.shape, random, step)
        loss = objective.loss(model, clean, draws).total
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def test_slices_of_a_batch_have_the_loss_of_the_whole(stage):
    torch.manual_seed(0)
    kind = kind_of(stage.generator)
    model, objective = kind.build(stage), kind.objective(stage)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    clean, labels = torch.randn(6, *stage.layout.shape), torch.tensor([0, 1, 2, 2, 1, 0])
    draws = objective.draw(labels, stage.layout.shape, torch.Generator().manual_seed(0), 0)
    whole = objective.loss(model, clean, draws)
    parts = [
        (len(clean[rows]) / 6, objective.loss(model, clean[rows], rows_of(draws, rows)))
        for rows in (slice(0, 4), slice(4, 6))
    ]
    assert whole.terms
    torch.testing.assert_close(sum(share * part.total for share, part in parts), whole.total)
    for name, term in whole.terms.items():
        torch.testing.assert_close(sum(share * part.terms[name] for share, part in parts), term)


def test_draws_depend_on_the_random_stream_alone(stage):
    objective, labels = kind_of(stage.generator).objective(stage), torch.tensor([0, 1, 2])
    one, same, other = (
        objective.draw(labels, stage.layout.shape, torch.Generator().manual_seed(seed), 0)
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


SAMPLERS = ("euler", "heun", "dopri5", "ab2", "dpmpp_2m")
DRAWN = [*((sampler, "cfg") for sampler in SAMPLERS), ("euler", "none"), ("euler", "autoguidance")]
"""Every sampler and every guidance; samplers do not know what guides the velocities they take."""


@pytest.mark.parametrize(("sampler", "guidance"), DRAWN)
def test_labels_become_finite_latents_of_the_layouts_shape(stage, sampler, guidance):
    torch.manual_seed(0)
    kind = kind_of(stage.generator)
    assert sampler in stage.generator.samplers
    assert guidance in stage.generator.guidances
    model, weak = (kind.build(stage).eval() for _ in range(2))
    for parameter in (*model.parameters(), *weak.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    config = SamplerConfig(kind=sampler, num_steps=3)
    guided = GUIDANCES[guidance]
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        one, same, sliced = (
            kind.draw(model, labels, torch.Generator().manual_seed(0), config, guided, weak, slices)
            for slices in (1, 1, 2)
        )
    assert one.shape == (2, *stage.layout.shape)
    assert torch.isfinite(one).all()
    assert torch.equal(one, same)
    torch.testing.assert_close(sliced, one, rtol=1e-3, atol=1e-4)


def test_evaluations_are_counted_as_they_happen(stage):
    kind, model = kind_of(stage.generator), kind_of(stage.generator).build(stage).eval()
    images: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    for sampler in (SamplerConfig(num_steps=5), SamplerConfig(kind="heun", num_steps=4)):
        for guidance in (NoGuidance(), ClassifierFreeGuidance(scale=2.0)):
            images.clear()
            with torch.no_grad():
                labels, random = torch.tensor([0, 2]), torch.Generator().manual_seed(0)
                kind.draw(model, labels, random, sampler, guidance)
            assert sum(images) == 2 * (kind.evaluations(stage, sampler, guidance) or 0)
    assert kind.evaluations(stage, SamplerConfig(kind="dopri5"), NoGuidance()) is None


def test_parameters_are_counted_as_they_are(stage):
    kind = kind_of(stage.generator)
    parameters, flops = kind.size(stage)
    assert parameters == num_parameters(kind.build(stage))
    assert flops > 0
