"""The generator over scales: what a token sees, parallel sampling, loss, guidance."""

import pytest
import torch
from torch.nn import functional

from models.dual_quantizer import DualQuantizer, DualQuantizerConfig
from models.guidance import NoGuidance
from models.latent import IndexLayout
from models.next_scale import NextScaleTransformer
from models.objectives.next_token import NextTokenObjective
from models.token_sampling import LogitGuidance, TokenSamplerConfig, draw_codes, truncate

from .test_autoregressive import TINY, check_learning

SIDES = (1, 2, 3)
LAYOUT = IndexLayout(codebook_size=11, grids=tuple((side, side) for side in SIDES))
STARTS = {0: 1, 1: 4, 5: 9}
"""Codes before a scale -> its codes."""


@pytest.fixture
def model() -> NextScaleTransformer:
    torch.manual_seed(0)
    model = NextScaleTransformer(TINY, layout=LAYOUT, num_classes=3).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.requires_grad_(False)


def test_a_code_depends_on_the_class_and_the_codes_of_coarser_scales_alone(model):
    indices = torch.randint(11, (1, 14), generator=torch.Generator().manual_seed(0))
    logits = model(torch.tensor([1]), indices)
    assert logits.shape == (1, 14, 11)
    assert torch.equal(model(torch.tensor([1]), indices[:, :13]), logits)
    assert torch.equal(model(torch.tensor([1]), indices[:, :5]), logits)
    for place in range(14):
        other = indices.clone()
        other[0, place] = (other[0, place] + 1) % 11
        moved = (model(torch.tensor([1]), other) - logits).abs().amax(dim=2)[0]
        end = max(start + size for start, size in STARTS.items() if start <= place)
        assert moved[:end].max() == 0
        assert (moved[end:] > 1e-3).all()
    assert (model(torch.tensor([2]), indices) - logits).abs().amax(dim=2).min() > 1e-3


def test_a_scale_is_given_the_sum_of_coarser_codes_as_the_quantiser_makes_it(model):
    torch.manual_seed(1)
    config = DualQuantizerConfig(codebook_size=11, semantic_dim=8, pixel_dim=8, scales=SIDES)
    quantizer = DualQuantizer(config, 3).requires_grad_(False)
    model.codes.weight.copy_(quantizer.codes(torch.arange(11)))
    torch.nn.init.zeros_(model.scales.weight)
    indices, labels = torch.randint(11, (2, 14)), torch.tensor([0, 1])
    tokens = model._inputs(labels, indices, slice(None))
    for start, side in ((1, 2), (5, 3)):
        said = functional.interpolate(quantizer.grid(indices[:, :start]), side, mode="area")
        found = tokens[:, start : start + side**2].mT.unflatten(2, (side, side))
        torch.testing.assert_close(found, said)
    assert torch.equal(tokens[:, 0], model.classes(labels))


@pytest.mark.parametrize("guidance", [NoGuidance(), LogitGuidance(scale=3.0, schedule="linear")])
@pytest.mark.parametrize("sampler", [TokenSamplerConfig(), TokenSamplerConfig(top_k=4, top_p=0.9)])
@pytest.mark.parametrize("slices", [1, 2])
def test_scales_drawn_with_a_cache_equal_those_drawn_without(model, sampler, guidance, slices):
    labels = torch.tensor([0, 2, 1, 1, 0])
    drawn = draw_codes(
        model, labels, torch.Generator().manual_seed(3), sampler, guidance, slices=slices
    )
    random, found = torch.Generator().manual_seed(3), torch.empty(5, 0, dtype=torch.int64)
    for number, (start, size) in enumerate(STARTS.items()):
        # What is not drawn yet is not looked at.
        given = torch.cat([found, torch.zeros(5, 14 - start, dtype=torch.int64)], dim=1)
        logits = model(labels, given)[:, start : start + size]
        if guidance.kind != "none":
            null = model(torch.full_like(labels, 3), given)[:, start : start + size]
            # TokenFlow's ramp: (1 + t) cond - t uncond with t = cfg * scale / (scales - 1), cfg 2.
            t = 2.0 * number / 2
            logits = (1 + t) * logits - t * null
        chances = truncate(logits.flatten(0, 1), sampler).softmax(dim=1)
        codes = torch.multinomial(chances, 1, generator=random).view(5, size)
        found = torch.cat([found, codes], dim=1)
    assert torch.equal(drawn, found)
    assert drawn.unique().numel() > 3


def test_a_step_reaches_every_weight_and_learns_the_codes_by_heart():
    torch.manual_seed(0)
    model = NextScaleTransformer(TINY, layout=LAYOUT, num_classes=3).train()
    objective = NextTokenObjective(num_classes=3, class_dropout=0.0)
    indices, labels = torch.randint(11, (3, 14)), torch.tensor([0, 1, 2])
    loss = objective.loss(model, indices, {"labels": labels})
    expected = functional.cross_entropy(model(labels, indices).flatten(0, 1), indices.flatten())
    torch.testing.assert_close(loss.total, expected)
    check_learning(model, indices)
