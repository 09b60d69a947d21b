"""The causal regulariser against its formula, and how its weight counts in the tokenizer's loss."""

from itertools import pairwise

import pytest
import torch

from models.alignment import NoAlignment
from models.autoencoder import Autoencoder, AutoencoderConfig, QuantizedAutoencoder
from models.batch_part import BatchPart
from models.latent import LatentLayout
from models.quantizers import VectorQuantizerConfig
from models.regularizers.causal import Causal, CausalConfig
from models.tokenizer_loss import QuantizedLossConfig, TokenizerLoss, TokenizerLossConfig

LAYOUT = LatentLayout.single(channels=3, height=2, width=4)
SHAPE = AutoencoderConfig(
    base_width=8, width_multipliers=(1, 2), num_blocks=1, attention_resolutions=(), norm_groups=4
)


def built(**settings) -> Causal:
    torch.manual_seed(0)
    return CausalConfig(width=16, num_heads=2, **settings).build(LAYOUT)


def latents(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 2, 4, generator=torch.Generator().manual_seed(1)) * 2 + 1


def test_a_prediction_sees_the_vectors_before_it_row_by_row():
    causal, given = built(), latents(1)
    vectors = given.flatten(2).mT
    torch.testing.assert_close(vectors[0, 5], given[0, :, 1, 1])
    predicted = causal.predict(vectors[:, :-1])
    for place in range(7):
        other = vectors.clone()
        other[0, place] += 1
        moved = (causal.predict(other[:, :-1]) - predicted).abs().amax(dim=2)[0]
        assert moved[:place].max() == 0 if place else True
        assert moved[place] > 1e-4


@pytest.mark.parametrize("error", ["mse", "squared_norm", "norm"])
@pytest.mark.parametrize("relative", [False, True])
def test_the_error_is_that_of_the_formula(error, relative):
    causal, given = built(error=error, relative=relative), latents()
    vectors = given.flatten(2).mT
    missed = causal.predict(vectors[:, :-1]) - vectors[:, 1:]
    variance = given.transpose(0, 1).flatten(1).var(dim=1, unbiased=False).mean()
    if relative:
        missed = missed / variance.sqrt()
    squares = missed.square().sum(dim=2)
    expected = {
        "mse": squares.mean() / 3,
        "squared_norm": squares.mean(),
        "norm": squares.sqrt().mean(),
    }[error]
    terms = causal.loss(given, given, {}, 0)
    torch.testing.assert_close(terms["prediction"], expected)
    torch.testing.assert_close(terms["variance"], variance)


def test_a_target_without_gradient_is_not_pulled_to_its_prediction():
    for has_gradient in (True, False):
        given = latents().requires_grad_()
        causal = built(target_gradient=has_gradient)
        causal.loss(given, given, {}, 0)["prediction"].backward()
        assert given.grad is not None
        # The last vector is a target only.
        assert given.grad is not None
        assert bool(given.grad[:, :, 1, 3].abs().sum() > 0) == has_gradient
        assert given.grad[:, :, 0, 0].abs().sum() > 0


@pytest.mark.parametrize("rise", ["cosine", "linear"])
def test_the_weight_rises_to_its_end_and_stays(rise):
    causal = built(warmup_steps=100, rise=rise)
    weights = [causal.weights_at(step)["prediction"] for step in range(120)]
    assert 0 < weights[0] < 0.05
    assert all(a <= b for a, b in pairwise(weights))
    assert weights[99:] == 21 * [4.0]
    assert weights[49] == pytest.approx(2.0)


def test_the_variance_is_that_of_the_whole_batch():
    causal, given = built(), latents()
    whole = causal.loss(given, given, {}, 0)["variance"]
    halves = [given[:2], given[2:]]
    # A worker's first sum is of the values; the other's is added by hand.
    for own, other in (halves, halves[::-1]):
        sums = iter(
            [
                other.sum(dim=(0, 2, 3)),
                (other - given.mean(dim=(0, 2, 3), keepdim=True)).square().sum(dim=(0, 2, 3)),
            ]
        )
        causal.part = BatchPart(
            total=4, differentiable_sum=lambda mine, sums=sums: mine + next(sums)
        )
        torch.testing.assert_close(causal.loss(own, own, {}, 0)["variance"], whole)


@pytest.mark.parametrize("quantized", [False, True])
def test_its_weight_stands_beside_the_mean_error_of_a_pixel(quantized):
    torch.manual_seed(0)
    layout = LatentLayout.single(channels=3, height=4, width=4)
    causal = CausalConfig(width=16, num_heads=2, warmup_steps=0).build(layout)
    model = Autoencoder(SHAPE, latent_dim=3, resolution=8)
    config = TokenizerLossConfig()
    if quantized:
        quantizer = VectorQuantizerConfig(codebook_size=8)
        model = QuantizedAutoencoder(SHAPE, quantizer, latent_dim=3, resolution=8)
        config = QuantizedLossConfig()
    criterion = TokenizerLoss(config, NoAlignment(), latent_dim=3, regularizers={"causal": causal})
    images, noise = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 4, 4)
    loss = criterion.autoencoder_loss(model, images, noise, None, 0, drawn={"causal": {}})
    assert float(loss.weights["causal.prediction"]) == (4 if quantized else 4 * 3 * 8 * 8)
    loss.total.backward()
    assert all(p.grad is not None for p in causal.parameters())
    assert criterion.autoencoder_parameters() == []
    total = sum(loss.weights[name] * term for name, term in loss.terms.items())
    torch.testing.assert_close(loss.total.detach(), total, rtol=1e-4, atol=1e-4)
