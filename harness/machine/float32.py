"""How fp32 numbers are multiplied on a GPU: exactly, or rounded to TensorFloat-32."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Without TensorFloat-32, in convolutions (cuDNN's default) and in products (if switched on).

    It has 10 bits of mantissa. Extraction runs so, and whatever compares features in float32.
    """
    convolutions = torch.backends.cudnn.allow_tf32
    with _products_as_before():
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """With TensorFloat-32 in matrix products."""
    with _products_as_before():
        torch.backends.cuda.matmul.allow_tf32 = True
        yield


@contextlib.contextmanager
def _products_as_before() -> Iterator[None]:
    """Put the precision of matrix products back after the block, every flag of it."""
    precision = torch.get_float32_matmul_precision()
    # From PyTorch 2.9 on each library has a flag of its own, which the older setting overwrites:
    # code that was compiled before would be compiled again, and the older setting could not be
    # read any more.
    libraries = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    flags = [(one, one.fp32_precision) for one in libraries if hasattr(one, "fp32_precision")]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for library, flag in flags:
            library.fp32_precision = flag
