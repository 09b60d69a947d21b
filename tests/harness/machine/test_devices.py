"""Peaks of devices and the share of them that work makes use of."""

import pytest

from harness.machine.devices import PEAKS, memory_bytes, mfu, peak_flops, precision_in_force


@pytest.mark.parametrize("name", PEAKS)
def test_wider_arithmetic_is_never_faster(name: str) -> None:
    peak = PEAKS[name]
    known = [value for value in (peak.bf16, peak.tf32, peak.fp32) if value is not None]
    assert known == sorted(known, reverse=True)
    assert all(1 < value < 1e4 for value in known)
    assert peak.source
    assert (memory_bytes(name) or 0) > 10 * 2**30


def test_a_device_at_half_its_peak_has_an_mfu_of_one_half() -> None:
    peak = peak_flops("NVIDIA H200", "bf16")
    assert peak is not None
    assert peak == 989.4e12
    assert mfu(peak * 10, 5.0, 4, "NVIDIA H200", "bf16") == pytest.approx(0.5)


def test_half_a_device_has_half_the_peak() -> None:
    peak = peak_flops("NVIDIA L4", "tf32")
    assert peak is not None
    assert mfu(peak, 1.0, 0.5, "NVIDIA L4", "tf32") == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["", "AMD EPYC", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_an_unknown_device_has_no_mfu(name: str) -> None:
    assert peak_flops(name, "bf16") is None
    assert mfu(1e15, 1.0, 1, name, "bf16") is None


def test_a_device_without_bf16_has_no_mfu_in_it() -> None:
    assert mfu(1e15, 1.0, 1, "Tesla T4", "bf16") is None


def test_bf16_anywhere_sets_the_peak_that_a_stage_is_held_to() -> None:
    assert precision_in_force(["fp32", "bf16"], tf32=False) == "bf16"
    assert precision_in_force(["fp32"], tf32=True) == "tf32"
    assert precision_in_force(["fp32", "tf32"], tf32=False) == "tf32"
    assert precision_in_force([], tf32=False) == "fp32"
