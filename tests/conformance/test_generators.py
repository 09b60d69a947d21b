"""One suite for every kind of generator that a sweep file can ask for."""

import pytest
import torch

from harness.schema.reading import validate
from harness.stages.generator.stage import GeneratorStage
from models.flow import flow_loss, flow_total, interpolate, sample_time, velocity_target
from models.sampler import SamplerConfig, sample

ONE_GROUP = [{"name": "image", "channels": 4}]
TWO_GROUPS = [{"name": "texture", "channels": 3}, {"name": "semantic", "channels": 1}]

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


def loss_of(stage: GeneratorStage, model, random: torch.Generator) -> torch.Tensor:
    clean, noise = (torch.randn(5, 4, 4, 4, generator=random) for _ in range(2))
    flow, layout = stage.generator.flow, stage.layout
    time = sample_time(flow, 5, layout.num_groups, random)
    labels = torch.tensor([0, 1, 2, 3, 0])
    predicted = model(interpolate(clean, noise, time, layout), time, labels)
    return flow_total(flow, flow_loss(predicted, velocity_target(clean, noise)))


def test_a_step_of_training_reaches_every_trained_parameter(stage):
    torch.manual_seed(0)
    model, random = stage.build(), torch.Generator().manual_seed(0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):  # A fresh network has zero gates: gradients pass them only after a step.
        optimizer.zero_grad()
        loss = loss_of(stage, model, random)
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def test_noise_becomes_a_finite_latent_of_the_layouts_shape(stage):
    torch.manual_seed(0)
    model = stage.build().eval()
    labels = torch.tensor([0, 2])

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return model(x, torch.full((2, stage.layout.num_groups), t), labels)

    with torch.no_grad():
        latents = sample(
            velocity, torch.randn(2, 4, 4, 4), SamplerConfig(num_steps=3), stage.layout
        )
    assert latents.shape == (2, *stage.layout.shape)
    assert torch.isfinite(latents).all()
