"""PSNR and SSIM against plain computations."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.ndimage import correlate1d

from harness.metrics.image_mean import ImageMean
from harness.metrics.image_quality import psnr, ssim


def _pixels(seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (6, 3, 20, 24), generator=random, dtype=torch.uint8)


def _images(seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 20, 24, generator=random) * 2.4 - 1.2


def test_psnr_is_the_published_formula_image_by_image():
    a, b = _pixels(0), _pixels(1)
    for value, x, y in zip(psnr(a, b), a.numpy(), b.numpy(), strict=True):
        mse = np.mean((x.astype(float) - y.astype(float)) ** 2)
        assert value.item() == pytest.approx(20 * math.log10(255 / math.sqrt(mse)), rel=1e-12)


def test_psnr_of_one_step_everywhere_is_48_db_and_of_nothing_infinite():
    a = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert psnr(a, a + 1).item() == pytest.approx(20 * math.log10(255))
    assert psnr(a, a).item() == math.inf


def test_the_mean_psnr_is_a_mean_of_decibels():
    a, b = _pixels(0), _pixels(1)
    b[0] = a[0]
    b[0, 0, 0, 0] += 1
    mean = ImageMean.empty().update(psnr(a, b)).compute()
    assert mean == pytest.approx(psnr(a, b).mean().item())


def _reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel /= kernel.sum()

    def smooth(plane: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(plane, kernel, axis=0), kernel, axis=1)[5:-5, 5:-5]

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    cov = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float((index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def test_ssim_agrees_with_scipys_gaussian_windows():
    a = _images(0)
    b = 0.7 * a + 0.3 * _images(1)
    for value, x, y in zip(ssim(a, b), a.double().clamp(-1, 1), b.clamp(-1, 1), strict=True):
        planes = zip(x.numpy(), y.double().numpy(), strict=True)
        assert value.item() == pytest.approx(np.mean([_reference_ssim(*p) for p in planes]))


def test_ssim_of_an_image_with_itself_is_one():
    a = _images(0)
    torch.testing.assert_close(ssim(a, a), torch.ones(4, dtype=torch.float64))


def test_ssim_of_constant_images_has_a_closed_form():
    black, white = torch.full((1, 1, 11, 11), -1.0), torch.full((1, 1, 11, 11), 1.0)
    assert ssim(black, white).item() == pytest.approx((-2 + 4e-4) / (2 + 4e-4))


def test_images_smaller_than_the_window_are_refused():
    small = torch.zeros(1, 3, 8, 16)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(small, small)


def test_unlike_shapes_are_refused_with_and_without_checked_annotations():
    with pytest.raises((AssertionError, TypeCheckError)):
        psnr(_pixels(0), _pixels(0)[:1])
    with pytest.raises((AssertionError, TypeCheckError)):
        ssim(_images(0), _images(0)[:1])
