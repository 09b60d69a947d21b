"""Peak arithmetic of devices by name and precision, to which MFU is held.

Peaks are NVIDIA's published ones without structured sparsity, at boost clock; where a data sheet
gives numbers with sparsity only, they are halved as its footnote says. A device that is not listed,
or a slice of one (MIG), has no known peak, and MFU stays empty: a guess would look like a
measurement.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "tf32", "fp32"]
"""Arithmetic of matrix products: bf16 with fp32 sums, fp32 numbers rounded to TF32, or fp32."""

TERA = 1e12


@dataclass(frozen=True)
class Peak:
    """Dense peak of one device in TFLOP/s; a multiply and an add are two operations."""

    bf16: float | None
    """Tensor cores on bf16 with fp32 sums; None where the device has no such arithmetic."""
    tf32: float | None
    """Tensor cores on TF32; None where the device has no such arithmetic."""
    fp32: float
    """Without tensor cores."""
    source: str
    """Data sheet or white paper that the numbers stand in."""


_HOPPER_SXM = Peak(989.4, 494.7, 66.9, "NVIDIA H100 Tensor Core GPU Architecture white paper")
_HOPPER_NVL = Peak(835.5, 417.7, 60.0, "NVIDIA H100 and H200 NVL data sheets, halved")
_AMPERE_100 = Peak(312.0, 156.0, 19.5, "NVIDIA A100 Tensor Core GPU data sheet")

PEAKS: Mapping[str, Peak] = {
    "NVIDIA GB200": Peak(2500.0, 1250.0, 80.0, "NVIDIA GB200 NVL72 data sheet, halved"),
    "NVIDIA B200": Peak(2250.0, 1125.0, 75.0, "NVIDIA HGX data sheet (B200), an eighth, halved"),
    "NVIDIA H200": _HOPPER_SXM,
    "NVIDIA H200 NVL": _HOPPER_NVL,
    "NVIDIA H100 80GB HBM3": _HOPPER_SXM,
    "NVIDIA H800": _HOPPER_SXM,
    "NVIDIA H100 NVL": _HOPPER_NVL,
    "NVIDIA H100 PCIe": Peak(756.5, 378.0, 51.2, "NVIDIA H100 PCIe product brief, halved"),
    "NVIDIA A100-SXM4-40GB": _AMPERE_100,
    "NVIDIA A100-SXM4-80GB": _AMPERE_100,
    "NVIDIA A100-PCIE-40GB": _AMPERE_100,
    "NVIDIA A100 80GB PCIe": _AMPERE_100,
    "NVIDIA A800-SXM4-80GB": _AMPERE_100,
    "NVIDIA A800 80GB PCIe": _AMPERE_100,
    "NVIDIA A40": Peak(149.7, 74.8, 37.4, "NVIDIA A40 data sheet"),
    "NVIDIA A30": Peak(165.0, 82.0, 10.3, "NVIDIA A30 data sheet"),
    "NVIDIA A10": Peak(125.0, 62.5, 31.2, "NVIDIA A10 data sheet"),
    "NVIDIA L40S": Peak(362.05, 183.0, 91.6, "NVIDIA L40S data sheet"),
    "NVIDIA L40": Peak(181.05, 90.5, 90.5, "NVIDIA L40 data sheet"),
    "NVIDIA L4": Peak(121.0, 60.0, 30.3, "NVIDIA L4 data sheet, halved"),
    "NVIDIA RTX A6000": Peak(154.8, 77.4, 38.7, "NVIDIA RTX A6000 data sheet, halved"),
    "NVIDIA RTX 6000 Ada Generation": Peak(
        364.2, 182.1, 91.1, "NVIDIA Ada GPU Architecture (professional), appendix"
    ),
    "NVIDIA GeForce RTX 5090": Peak(
        209.5, 104.8, 104.8, "NVIDIA RTX Blackwell GPU Architecture, appendix A"
    ),
    "NVIDIA GeForce RTX 4090": Peak(165.2, 82.6, 82.6, "NVIDIA Ada GPU Architecture, appendix A"),
    "NVIDIA GeForce RTX 3090": Peak(
        71.0, 35.6, 35.6, "NVIDIA Ampere GA102 Architecture, appendix A"
    ),
    "Tesla V100-SXM2-16GB": Peak(None, None, 15.7, "NVIDIA V100 data sheet"),
    "Tesla V100-SXM2-32GB": Peak(None, None, 15.7, "NVIDIA V100 data sheet"),
    "Tesla V100-PCIE-16GB": Peak(None, None, 14.0, "NVIDIA V100 data sheet"),
    "Tesla T4": Peak(None, None, 8.1, "NVIDIA T4 data sheet"),
}
"""Name as `torch.cuda.get_device_name` gives it -> peak."""


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Dense peak in FLOP/s of one device, or None where it is not known."""
    # Exact names only: an "H100" may be SXM, NVL or PCIe, whose peaks differ by up to a third.
    peak: float | None = getattr(PEAKS.get(device_name), precision, None)
    return None if peak is None else peak * TERA


def mfu(
    flops: float, wall_s: float, devices: float, device_name: str, precision: Precision
) -> float | None:
    """Model FLOPs utilisation: operations the model needs, as a share of the devices' peak.

    Args:
        flops: Floating-point operations that the work needs, recomputation not counted.
        devices: Devices that it held; a fraction for a shared one.
        device_name: As `torch.cuda.get_device_name` gives it.

    Returns:
        A share of 1, or None where the peak is not known or nothing was measured.
    """
    peak = peak_flops(device_name, precision)
    if peak is None or wall_s <= 0 or devices <= 0 or flops <= 0:
        return None
    return flops / (wall_s * devices * peak)


def precision_in_force(configured: Iterable[str], *, tf32: bool) -> Precision:
    """Arithmetic of a stage whose networks have these configured precisions.

    Args:
        configured: `bf16`, `tf32` or `fp32` of each network; `fp32` where there are none.
        tf32: Whether fp32 matrix products are rounded to TF32.
    """
    named = set(configured)
    if "bf16" in named:
        return "bf16"
    return "tf32" if tf32 or "tf32" in named else "fp32"
