"""A cascade of resolutions against closed forms: frames, conditions, training and sampling."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from models.drawing import draw_latents
from models.guidance import ClassifierFreeGuidance, NoGuidance
from models.latent import LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
from models.lowdiff import CascadeDiT, CascadeSamplerConfig, StageSampler, draw_cascade
from models.objectives.cascade import CascadeObjective, CascadeResolution, enlarge, reduce
from models.objectives.flow import FlowConfig, FlowObjective

LAYOUT = LatentLayout.single(3, 8, 8)
SHAPE = LightningDiTConfig(size=DiTShape(depth=2, width=16, num_heads=2))


def network(*sides: int) -> CascadeDiT:
    torch.manual_seed(0)
    model = CascadeDiT(SHAPE, layout=LAYOUT, num_classes=5, sides=sides)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def cascade(
    *resolutions: CascadeResolution, noise=0.0, dropout=0.0, statistics: Any = ()
) -> CascadeObjective:
    flow = FlowObjective(config=FlowConfig(), layout=LAYOUT, num_classes=5, class_dropout=0.1)
    return CascadeObjective(
        flow=flow,
        resolutions=resolutions,
        condition_noise=noise,
        condition_dropout=dropout,
        statistics=statistics,
    )


def resolution(side: int, **given) -> CascadeResolution:
    return CascadeResolution(side=side, **given)


def draws_at(objective: CascadeObjective, side: int, count: int = 4):
    """The draws of the first step at a resolution."""
    labels = torch.arange(count) % 5
    for step in range(100):
        random = torch.Generator().manual_seed(step)
        draws = objective.draw(labels, LAYOUT.shape, random, step)
        if draws["noise"].shape[2] == side:
            return draws
    raise AssertionError(f"no step at {side}")


def test_grids_share_the_frame_of_the_finest():
    model: Any = network(2, 4, 8)
    plain: Any = LightningDiT(SHAPE, layout=LAYOUT, num_classes=5)
    assert torch.equal(model.pos_embed, plain.pos_embed)
    assert torch.equal(model.feat_rope.freqs_cos, plain.feat_rope.freqs_cos)
    # The second cell of two lies at 5.5 in cells of eight: its first frequency turns by one each.
    rope = model.lower[0].feat_rope
    angle = torch.atan2(rope.freqs_sin, rope.freqs_cos)
    turned = torch.remainder(angle[:, 0], 2 * math.pi)
    expected = torch.tensor([1.5, 1.5, 5.5, 5.5])
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-5)


def test_a_condition_reaches_the_velocity_and_none_is_zero():
    model, x = network(4, 8), torch.randn(2, 3, 8, 8)
    time, labels = torch.full((2, 1), 0.5), torch.tensor([1, 2])
    plain = model(x, time, labels)
    assert torch.equal(plain, model(x, time, labels, torch.zeros_like(x)))
    assert not torch.allclose(plain, model(x, time, labels, torch.ones_like(x)))
    assert model(x[:, :, :4, :4], time, labels).shape == (2, 3, 4, 4)


def test_steps_have_their_resolutions_by_probability():
    objective = cascade(resolution(2, probability=3.0), resolution(4), resolution(8))
    sides = Counter(
        objective.draw(torch.tensor([0]), LAYOUT.shape, torch.Generator().manual_seed(s), s)[
            "noise"
        ].shape[2]
        for s in range(2000)
    )
    assert [sides[side] / 2000 for side in (2, 4, 8)] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_the_condition_is_the_normalised_latent_below_with_noise_or_nothing():
    clean, seen = torch.randn(4, 3, 8, 8), []

    def watching(x, time, labels, *condition):
        seen.append(condition)
        return torch.zeros_like(x)

    mean, std = torch.full((1, 3, 1, 1), 0.25), torch.full((1, 3, 1, 1), 0.5)
    known = ((mean, std),)
    plain = cascade(resolution(4), resolution(8), statistics=known)
    plain.loss(watching, clean, draws_at(plain, 8))
    below = enlarge((reduce(clean, 4) - 0.25) / 0.5, 8)
    torch.testing.assert_close(seen.pop(), (below,))
    plain.loss(watching, clean, draws_at(plain, 4))
    assert seen.pop() == ()
    noisy = cascade(resolution(4), resolution(8), noise=0.4, statistics=known)
    draws = draws_at(noisy, 8)
    noisy.loss(watching, clean, draws)
    (condition,) = seen.pop()
    amount = (condition - below).flatten(1).std(dim=1) / draws["condition_noise"].flatten(1).std(1)
    torch.testing.assert_close(amount, draws["condition_amount"].flatten())
    assert 0 < amount.min() < amount.max() <= 0.4
    without = cascade(resolution(4), resolution(8), noise=0.4, dropout=1.0, statistics=known)
    without.loss(watching, clean, draws_at(without, 8))
    assert not seen.pop()[0].any()


def test_weight_and_shift_are_a_resolutions_own():
    clean = torch.randn(64, 3, 8, 8)
    one = cascade(resolution(4), resolution(8))
    other = cascade(resolution(4, weight=3.0, shift=0.25), resolution(8))
    draws, shifted = (draws_at(each, 4, 64) for each in (one, other))
    expected = 0.25 * draws["time"] / (1 - 0.75 * draws["time"])
    torch.testing.assert_close(shifted["time"], expected)
    model = network(4, 8)
    first, second = (each.loss(model, clean, draws) for each in (one, other))
    torch.testing.assert_close(second.total, 3 * first.total)
    assert set(first.terms) == {"velocity_mse_4", "velocity_direction_4"}
    torch.testing.assert_close(second.terms["velocity_mse_4"], first.terms["velocity_mse_4"])


def test_each_resolution_has_its_own_steps_solver_and_guidance():
    model, calls = network(2, 4, 8), []
    model.register_forward_pre_hook(lambda _, seen: calls.append(tuple(seen[0].shape[::2])))
    stages = (
        StageSampler(num_steps=4),
        StageSampler(kind="heun", num_steps=3, guidance_scale=1.0),
        StageSampler(kind="ab2", num_steps=2),
    )
    sampler = CascadeSamplerConfig(stages=stages)
    assert sampler.num_function_evaluations == 3 + 4 + 1
    labels, guidance = torch.tensor([0, 3]), ClassifierFreeGuidance(scale=2.0)
    with torch.no_grad():
        one, again = (
            draw_cascade(model, labels, torch.Generator().manual_seed(0), sampler, guidance)
            for _ in range(2)
        )
    assert calls[:8] == [(4, 2)] * 3 + [(2, 4)] * 4 + [(4, 8)]
    assert torch.equal(one, again)


def test_one_resolution_is_sampled_as_the_plain_network_bit_for_bit():
    model, plain = network(8), LightningDiT(SHAPE, layout=LAYOUT, num_classes=5).eval()
    plain.load_state_dict(model.state_dict())
    labels, stage = torch.tensor([0, 3]), StageSampler(num_steps=4)
    sampler = CascadeSamplerConfig(stages=(stage,))
    with torch.no_grad():
        for guidance in (NoGuidance(), ClassifierFreeGuidance(scale=2.0)):
            ours = draw_cascade(model, labels, torch.Generator().manual_seed(0), sampler, guidance)
            theirs = draw_latents(plain, labels, torch.Generator().manual_seed(0), stage, guidance)
            assert torch.equal(ours, theirs)


def test_an_adaptive_solver_is_refused():
    with pytest.raises(ValueError, match="fixed steps in a cascade"):
        StageSampler(kind="dopri5")
