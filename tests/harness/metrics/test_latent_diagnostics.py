"""Spectrum and linear probe on latents whose answers are known."""

import math

import pytest
import torch

from harness.metrics.latent_diagnostics import linear_probe_accuracy, spectrum_high_share


def wave(cycles: int, side: int = 16) -> torch.Tensor:
    """One image of one channel with `cycles` waves along a row."""
    places = torch.arange(side) * (2 * math.pi * cycles / side)
    return torch.cos(places).expand(1, 1, side, side)


@pytest.mark.parametrize(("cycles", "share"), [(1, 0.0), (4, 0.0), (5, 1.0), (8, 1.0)])
def test_a_single_wave_lies_on_its_side_of_half_nyquist(cycles, share):
    assert spectrum_high_share(wave(cycles)) == pytest.approx(share, abs=1e-10)


def test_white_noise_fills_the_spectrum_evenly():
    noise = torch.randn(200, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert spectrum_high_share(noise) == pytest.approx(0.81, abs=0.01)


def test_a_grid_without_high_frequencies_is_refused():
    with pytest.raises(ValueError, match="at least 4x4 cells"):
        spectrum_high_share(torch.zeros(1, 1, 2, 2))


def test_the_probe_separates_what_is_linear_and_guesses_what_is_noise():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 8, generator=random)
    shifted = noise + 10 * torch.nn.functional.one_hot(labels, 8)
    assert linear_probe_accuracy(shifted, labels, shifted, labels, 3) == 1.0
    other = torch.randn(300, 8, generator=random)
    assert linear_probe_accuracy(noise, labels, other, labels, 3) == pytest.approx(1 / 3, abs=0.1)


def test_the_probe_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    random = torch.Generator().manual_seed(1)
    labels = torch.arange(400) % 4
    latents = torch.randn(400, 6, generator=random)
    latents += 1.2 * torch.nn.functional.one_hot(labels, 6)
    first, second = latents[::2], latents[1::2]
    ours = linear_probe_accuracy(first, labels[::2], second, labels[1::2], 4)
    scaled = (first - first.mean(0)) / first.std(0), (second - first.mean(0)) / first.std(0)
    # scikit-learn sums the losses and halves the penalty: C = 1 / (2 n decay).
    theirs = LogisticRegression(C=1 / (2 * len(first) * 1e-3), max_iter=1000)
    theirs.fit(scaled[0].numpy(), labels[::2].numpy())
    assert ours == pytest.approx(theirs.score(scaled[1].numpy(), labels[1::2].numpy()), abs=0.011)
