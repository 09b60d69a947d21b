"""Between 8-bit pixels and [-1, 1]."""

import pytest
import torch

from harness.data.pixel_range import to_model_range, to_uint8
from harness.machine.finite import Diverged


def test_pixels_survive_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_model_range(pixels)), pixels)


def test_the_range_is_minus_one_to_one():
    ends = to_model_range(torch.tensor([0, 255], dtype=torch.uint8))
    assert ends.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(("value", "pixel"), [(-2.0, 0), (2.0, 255), (0.0, 128), (-1.0, 0)])
def test_values_are_clamped_and_halves_go_up(value, pixel):
    assert to_uint8(torch.tensor([value])).item() == pixel


def test_half_precision_is_rounded_like_its_float32_values():
    values = torch.linspace(-1, 1, 999).to(torch.bfloat16)
    assert torch.equal(to_uint8(values), to_uint8(values.float()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_never_becomes_a_pixel(value):
    images = torch.zeros(4, 3, 2, 2)
    images[1, 2, 0, 1] = images[3, 0, 0, 0] = value
    with pytest.raises(Diverged, match=r"2 of 4 images are not finite \(the first is number 1 "):
        to_uint8(images)
