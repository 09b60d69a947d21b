"""Measures of latents by themselves, without a generator: spectrum and linear probe.

Cheap numbers that may foretell how well a generator will do; the analysis shows each beside gFID
with its rank correlation. How evenly latents fill their space is `harness.metrics.uniformity`.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

_HALF_NYQUIST = 0.25
_PROBE_ITERATIONS = 100
_PROBE_DECAY = 1e-3


def spectrum_high_share(latents: Float[Tensor, "n c h w"]) -> float:
    """Share of the latents' power at spatial frequencies above half the Nyquist frequency, in [0,
    1].

    The power spectrum of each channel without its mean, summed over images and channels; a
    frequency is the length of the vector of cycles a cell, and Nyquist's is 0.5. White noise on a
    16x16 grid gives 0.81.

    Raises:
        ValueError: The grid has fewer than 4 cells a side, so no frequency lies between.
    """
    height, width = latents.shape[2:]
    if min(height, width) < 4:
        raise ValueError(
            f"a spectrum needs latents of at least 4x4 cells, but got {height}x{width}; leave "
            "diagnostics out, or use a tokenizer that downsamples less"
        )
    centred = latents - latents.mean(dim=(2, 3), keepdim=True)
    power = torch.fft.fft2(centred.double()).abs().square().sum(dim=(0, 1))
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    radius = (rows[:, None].square() + columns.square()).sqrt().to(power.device)
    return float(power[radius > _HALF_NYQUIST].sum() / power.sum())


def linear_probe_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int64[Tensor, " n"],
    evaluated: Float[Tensor, "m d"],
    evaluated_labels: Int64[Tensor, " m"],
    num_classes: int,
) -> float:
    """Accuracy of a multinomial logistic regression on flattened latents, in [0, 1].

    Full-batch L-BFGS from zero with an L2 penalty of 1e-3, at most 100 iterations: nothing random.
    Latents are standardised by mean and deviation of those to fit.
    """
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    fitted, seen = (train - mean) / std, (evaluated - mean) / std
    weight = torch.zeros(num_classes, train.shape[1], device=train.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=train.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_PROBE_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = functional.cross_entropy(functional.linear(fitted, weight, bias), train_labels)
        total = fit + _PROBE_DECAY * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    predicted = functional.linear(seen, weight, bias).argmax(dim=1)
    return float((predicted == evaluated_labels).double().mean())
