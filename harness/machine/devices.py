"""Peak arithmetic of devices by name and precision, to which MFU is held.

Peaks are the makers' published ones without structured sparsity, at boost clock; where a data sheet
gives numbers with sparsity only, they are halved as its footnote says. A device that is not listed,
or a slice of one (MIG), has no known peak, and MFU stays empty: a guess would look like a
measurement.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "tf32", "fp32"]
"""Arithmetic of matrix products: bf16 with fp32 sums, fp32 numbers rounded to TF32, or fp32."""

TERA = 1e12

_NO_MEMORY = re.compile(
    r"CUDA out of memory|CUDA (error|failure)[ \d:]*'?out of memory|unable to find an engine|"
    r"(CUBLAS|CUDNN|CUSOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)",
    re.IGNORECASE,
)
"""Texts of torch's RuntimeErrors that a full device is behind. Libraries that find no memory for
their handles or workspaces say so in words of their own, and so does NCCL."""


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
_PRO_6000 = "NVIDIA RTX PRO 6000 Blackwell data sheets, halved"
_AMPERE_100 = Peak(312.0, 156.0, 19.5, "NVIDIA A100 Tensor Core GPU data sheet")

PEAKS: Mapping[str, Peak] = {
    "NVIDIA B300 SXM6 AC": Peak(2250.0, 1125.0, 75.0, "NVIDIA HGX data sheet (B300), halved"),
    "NVIDIA GB200": Peak(2500.0, 1250.0, 80.0, "NVIDIA GB200 NVL72 data sheet, halved"),
    "NVIDIA B200": Peak(2250.0, 1125.0, 75.0, "NVIDIA HGX data sheet (B200), an eighth, halved"),
    "NVIDIA H200": _HOPPER_SXM,
    "NVIDIA H200 NVL": _HOPPER_NVL,
    "NVIDIA H100 80GB HBM3": _HOPPER_SXM,
    "NVIDIA H800": _HOPPER_SXM,
    "NVIDIA H100 NVL": _HOPPER_NVL,
    "NVIDIA GH200 480GB": _HOPPER_SXM,
    "NVIDIA GH200 144G HBM3e": _HOPPER_SXM,
    "NVIDIA H20": Peak(148.0, 74.0, 44.0, "NVIDIA H20 data sheet"),
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
    "NVIDIA A10G": Peak(70.0, 35.0, 31.5, "NVIDIA A10G data sheet"),
    "NVIDIA L40S": Peak(362.05, 183.0, 91.6, "NVIDIA L40S data sheet"),
    "NVIDIA L40": Peak(181.05, 90.5, 90.5, "NVIDIA L40 data sheet"),
    "NVIDIA L4": Peak(121.0, 60.0, 30.3, "NVIDIA L4 data sheet, halved"),
    "NVIDIA RTX A6000": Peak(154.8, 77.4, 38.7, "NVIDIA RTX A6000 data sheet, halved"),
    "NVIDIA RTX 6000 Ada Generation": Peak(
        364.2, 182.1, 91.1, "NVIDIA Ada GPU Architecture (professional), appendix"
    ),
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": Peak(503.8, 251.9, 125.0, _PRO_6000),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": Peak(480.0, 240.0, 120.0, _PRO_6000),
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
    "AMD Instinct MI300X": Peak(1307.4, 653.7, 163.4, "AMD Instinct MI300X data sheet"),
}
"""Name as `torch.cuda.get_device_name` gives it -> peak."""

_GIB = {
    "B300": 268, "GB200": 184, "B200": 178, "H200": 139, "H200 NVL": 139, "H100 80GB HBM3": 79,
    "H800": 79, "H100 NVL": 93, "GH200 480GB": 94, "GH200 144G HBM3e": 140, "H20": 95,
    "H100 PCIe": 79, "A100-SXM4-40GB": 39, "A100-SXM4-80GB": 79, "A100-PCIE-40GB": 39,
    "A100 80GB PCIe": 79, "A800-SXM4-80GB": 79, "A800 80GB PCIe": 79, "A40": 44, "A30": 23,
    "A10": 22, "A10G": 22, "L40S": 44, "L40": 44, "L4": 22, "RTX A6000": 47,
    "RTX 6000 Ada Generation": 47, "RTX PRO 6000 Blackwell Workstation Edition": 94,
    "RTX PRO 6000 Blackwell Server Edition": 94, "GeForce RTX 5090": 31, "GeForce RTX 4090": 23,
    "GeForce RTX 3090": 23, "Tesla V100-SXM2-16GB": 15, "Tesla V100-SXM2-32GB": 31,
    "Tesla V100-PCIE-16GB": 15, "Tesla T4": 14, "AMD Instinct MI300X": 191,
}  # fmt: skip


def memory_bytes(device_name: str) -> float | None:
    """Memory that programs can use of a device in `PEAKS`, rounded down; None of another."""
    # Data sheets count what error correction and the driver take.
    gib = _GIB.get(device_name.removeprefix("NVIDIA ").removesuffix(" SXM6 AC"))
    return None if gib is None else gib * 2.0**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error tells that a device has no memory left."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or bool(_NO_MEMORY.search(str(error)))
    )


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
    """Arithmetic of a stage whose networks have these precisions (`bf16`, `tf32` or `fp32`; `fp32`
    where there are none), fp32 matrix products being rounded to TF32 or not."""
    named = set(configured)
    if "bf16" in named:
        return "bf16"
    return "tf32" if tf32 or "tf32" in named else "fp32"
