"""The released sampler's procedure, which the benchmark holds ours to, and ours draw the same."""

import pytest
import torch

from harness.benchmarks.use_parts import AS_PUBLISHED, draw_as_published
from models.drawing import draw_latents
from models.latent import LatentLayout
from models.lightningdit import LightningDiT, LightningDiTConfig
from models.rounding import round_weights
from models.sampler import SamplerConfig

SAMPLER = SamplerConfig(num_steps=9)


@pytest.fixture
def network() -> LightningDiT:
    torch.manual_seed(0)
    layout = LatentLayout.single(4, 4, 4)
    model = LightningDiT(LightningDiTConfig(size="pico"), layout=layout, num_classes=3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # A velocity of the published scale; it begins at zero.
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def drawn(draw, model: LightningDiT) -> torch.Tensor:
    labels = torch.tensor([0, 1, 2, 1])
    return draw(model, labels, torch.Generator().manual_seed(1), SAMPLER, AS_PUBLISHED)


def test_ours_gives_the_latents_of_the_published_procedure(network):
    published, ours = drawn(draw_as_published, network), drawn(draw_latents, network)
    torch.testing.assert_close(ours, published, rtol=0, atol=2e-6 * float(published.abs().max()))


def test_in_bfloat16_weights_are_rounded_once_and_give_the_same(network):
    with torch.autocast("cpu", torch.bfloat16):
        published = drawn(draw_as_published, network)
        round_weights(network)
        ours = drawn(draw_latents, network)
    torch.testing.assert_close(ours, published, rtol=0, atol=2e-6 * float(published.abs().max()))


def test_the_published_procedure_sees_both_halves_at_every_time(network):
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    drawn(draw_as_published, network)
    assert seen == 8 * [8]
    seen.clear()
    drawn(draw_latents, network)
    assert len(seen) == 8
    assert seen[0] == 4
    assert seen[-1] == 8
