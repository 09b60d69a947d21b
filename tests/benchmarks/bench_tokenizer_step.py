"""What the adaptive weights cost: one autoencoder step of every setting, side by side in one run.

    python tests/benchmarks/bench_tokenizer_step.py [--width 32] [--resolution 64] [--rounds 15]

A step is forward pass, loss, backward pass and Adam; the discriminator's own step and the frozen
encoder stay out, since no adaptive weight touches them. Networks are random, LPIPS included. The
settings take turns in every round; the medians are compared. Time is CPU time of this process, on
one thread, or wall time between synchronisations on a GPU.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from models import tokenizer_loss
from models.alignment import NoAlignment, VFAlignment
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.discriminator import DiscriminatorConfig, NoDiscriminator, generator_hinge_loss
from models.perceptual import LPIPS, LPIPSConfig, untrained_backbone
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig, balance_weight

FEATURES = 1024
HEAD_WIDTHS = (64, 128, 256, 512, 512)
ON = 10_000
"""A batch at which the adversarial term is on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of doing the step."""

    adversarial: bool = False
    """With the adversarial term."""
    aligned: bool = False
    """With the alignment terms."""
    adaptive_gan: bool = True
    """Its weight follows gradient norms; otherwise it is a constant."""
    adaptive_vf: bool = True
    """Likewise for the alignment."""
    whole_terms: bool = False
    """Whole terms are differentiated for every weight and once more for the update."""


SETTINGS = {
    "L1 + LPIPS + KL": Setting(),
    "+ GAN, constant weight": Setting(adversarial=True, adaptive_gan=False),
    "+ GAN, adaptive weight": Setting(adversarial=True),
    "+ VF, constant weight": Setting(aligned=True, adaptive_vf=False),
    "+ VF, adaptive weight": Setting(aligned=True),
    "+ both, constant weights": Setting(
        adversarial=True, aligned=True, adaptive_gan=False, adaptive_vf=False
    ),
    "+ both, GAN adaptive": Setting(adversarial=True, aligned=True, adaptive_vf=False),
    "+ both, adaptive": Setting(adversarial=True, aligned=True),
    "+ both, adaptive, whole terms": Setting(adversarial=True, aligned=True, whole_terms=True),
}
CONSTANT = {
    "+ GAN, adaptive weight": "+ GAN, constant weight",
    "+ VF, adaptive weight": "+ VF, constant weight",
    "+ both, GAN adaptive": "+ both, constant weights",
    "+ both, adaptive": "+ both, constant weights",
    "+ both, adaptive, whole terms": "+ both, constant weights",
}
"""Setting -> what it is compared with."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=32, help="channels at full resolution")
    parser.add_argument("--resolution", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--rounds", type=int, default=15, help="steps of every setting")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    steps = {
        name: make_step(setting, arguments.width, arguments.resolution, arguments.batch, device)
        for name, setting in SETTINGS.items()
    }
    seconds = measure(steps, arguments.rounds, device)
    print_table(seconds, arguments)


def measure(
    steps: Mapping[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every step, the settings interleaved; two rounds warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            started = now(device)
            step()
            if number >= 2:
                seconds[name].append(now(device) - started)
    return seconds


def now(device: torch.device) -> float:
    """CPU time of this process, or wall time once the GPU has caught up."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def print_table(seconds: Mapping[str, list[float]], arguments: argparse.Namespace) -> None:
    """Medians, and ratios to the plain step and to the same terms under constant weights."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    plain = medians["L1 + LPIPS + KL"]
    print(
        f"{arguments.device}, width {arguments.width}, {arguments.resolution} px, batch "
        f"{arguments.batch}, median of {arguments.rounds}"
    )
    print(f"{'setting':32}{'ms':>8}{'to plain':>10}{'to constant':>13}")
    for name, median in medians.items():
        against = f"{median / medians[CONSTANT[name]]:.3f}" if name in CONSTANT else ""
        print(f"{name:32}{1e3 * median:8.1f}{median / plain:10.3f}{against:>13}")


def make_step(
    setting: Setting, width: int, resolution: int, batch: int, device: torch.device
) -> Callable[[], None]:
    """Networks, a batch and an optimiser of one setting, as a function that does a step."""
    torch.manual_seed(0)
    shape = AutoencoderConfig(base_width=width, attention_resolutions=(resolution // 16,))
    model = Autoencoder(shape, latent_dim=32, resolution=resolution)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)
    loss = make_loss(setting).to(device)
    adam = torch.optim.Adam([*model.parameters(), *loss.autoencoder_parameters()], fused=True)
    images = torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1
    side = resolution // 16
    noise = torch.randn(batch, 32, side, side, device=device)
    features = torch.randn(batch, FEATURES, side, side, device=device)
    constant = not setting.adaptive_gan

    def one(weight: Tensor, *_: object) -> Tensor:
        return weight.new_ones(())

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        patched = mock.patch.object(tokenizer_loss, "_balance_at", one)
        with patched if constant else nullcontext():
            if setting.whole_terms:
                total = whole_terms(model, loss, images, noise, features)
            else:
                total = loss.autoencoder_loss(model, images, noise, features, ON).total
            total.backward()
        adam.step()

    return step


def make_loss(setting: Setting) -> TokenizerLoss:
    """The loss of a setting with a random LPIPS."""
    discriminator = DiscriminatorConfig() if setting.adversarial else NoDiscriminator()
    alignment = VFAlignment(adaptive=setting.adaptive_vf) if setting.aligned else NoAlignment()
    config = TokenizerLossConfig(discriminator=discriminator)
    loss = TokenizerLoss(config, alignment, latent_dim=32, feature_dim=FEATURES)
    loss.perceptual = LPIPS(untrained_backbone(), [torch.rand(1, w, 1, 1) for w in HEAD_WIDTHS])
    loss.config = dataclasses.replace(config, perceptual=LPIPSConfig())
    return loss


def whole_terms(
    model: Autoencoder, loss: TokenizerLoss, images: Tensor, noise: Tensor, features: Tensor
) -> Tensor:
    """The same sum, with each weight from gradients of whole terms."""
    assert loss.perceptual is not None
    assert loss.discriminator is not None
    assert loss.alignment is not None
    posterior = model.encode(images)
    z = posterior.sample(noise)
    reconstruction = model.decode(z)
    distance = loss.perceptual(images, reconstruction).mean()
    nll = images[0].numel() * ((images - reconstruction).abs().mean() + distance)
    gan = generator_hinge_loss(loss.discriminator(reconstruction))
    vf = loss.alignment.total(loss.alignment(z, features))

    def ratio(term: Tensor, weight: Tensor, limit: float) -> Tensor:
        (by_nll,) = torch.autograd.grad(nll, weight, retain_graph=True)
        (by_term,) = torch.autograd.grad(term, weight, retain_graph=True)
        return balance_weight(by_nll, by_term, limit).detach()

    gan_weight = 0.5 * ratio(gan, model.last_decoder_weight, tokenizer_loss.GAN_WEIGHT_LIMIT)
    vf_weight = 0.1 * ratio(vf, model.last_encoder_weight, tokenizer_loss.VF_WEIGHT_LIMIT)
    return nll + 1e-6 * posterior.kl().mean() + gan_weight * gan + vf_weight * vf


if __name__ == "__main__":
    main()
