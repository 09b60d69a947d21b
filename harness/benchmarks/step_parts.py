"""Parts of a tokenizer's training step, each by itself, with the networks of the whole one."""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from harness.benchmarks.measuring import Bench
from harness.benchmarks.rows import Row
from harness.benchmarks.turns import repeated
from harness.config.diffusers import DiffusersTokenizerConfig
from harness.config.training import Precision
from harness.stages.encoder import load_encoder
from harness.stages.running.optimisation import arithmetic, optimizer_settings
from harness.stages.tokenizer.stage import memory_format
from models import tokenizer_loss
from models.alignment import VFAlignment
from models.autoencoder import Autoencoder
from models.foundation import FeatureEncoder
from models.tokenizer_loss import TokenizerLoss

WHOLE = "whole step"
CONSTANT = "whole step, constant weights"
ALWAYS_ON = 10**9
"""A batch at which every term is in force."""


def tokenizer_parts(bench: Bench) -> list[Row]:
    """What the parts of a step take, in the arithmetic of the trial, and their share of the whole.

    Adaptive weights have no calls of their own: they are the difference to constant ones.
    """
    part = "tokenizer parts"
    config = bench.subject.trial.tokenizer
    if isinstance(config, DiffusersTokenizerConfig):
        return [Row(part=part, what=WHOLE, status="skipped", reason="it is not trained here")]
    step = _Step(bench)
    functions = step.parts()
    times = bench.run(
        {name: repeated(on_threads(f, bench.threads)) for name, f in functions.items()},
        together=True,
    )
    training = config.training
    rows = []
    for name in functions:
        row = Row(part=part, what=name, images=step.batch_size, precision=training.precision)
        rows.append(bench.row(row, times[name]))
    return _with_shares(rows)


def _with_shares(rows: list[Row]) -> list[Row]:
    """Rows with their share of the whole, and a row of what adaptive weights add."""
    by_name = {row.what: row for row in rows}
    whole, constant = by_name[WHOLE], by_name.pop(CONSTANT, None)
    if whole.seconds is None:
        return rows
    if constant is not None and constant.seconds is not None:
        by_name["adaptive weights"] = dataclasses.replace(
            constant,
            what="adaptive weights",
            seconds=whole.seconds - constant.seconds,
            seconds_q1=None,
            seconds_q3=None,
            wall_s=None,
            images_per_s=None,
            images_per_s_q1=None,
            images_per_s_q3=None,
            images=None,
            reason="whole step less the same under constant weights",
        )
    return [
        row if row.seconds is None else dataclasses.replace(row, share=row.seconds / whole.seconds)
        for row in by_name.values()
    ]


class _Step:
    """Networks, optimisers and a batch of one tokenizer's training."""

    def __init__(self, bench: Bench) -> None:
        config, device = bench.subject.trial.tokenizer, bench.device
        assert not isinstance(config, DiffusersTokenizerConfig)
        stage = bench.subject.stage("tokenizer")
        inputs = bench.subject.inputs(stage)
        training = bench.subject.batch_of(config.training)
        self.device = device
        self.precision: Precision = training.precision
        self.batch_size = training.batch_size
        resolution = bench.subject.trial.data.resolution
        self.side = resolution // config.downsample
        model = Autoencoder(
            config.architecture, latent_dim=config.latent_dim, resolution=resolution
        )
        self.model = model.to(device).to(memory_format=memory_format(device)).train()
        self.encoder: FeatureEncoder | None = None
        if "encoder" in inputs:
            self.encoder = load_encoder(inputs["encoder"], device)
        self.criterion = TokenizerLoss(
            config.loss,
            config.alignment,
            latent_dim=config.latent_dim,
            feature_dim=None if self.encoder is None else self.encoder.feature_dim,
        ).to(device)
        if self.precision == "bf16":
            self.criterion.round_perceptual()
        settings = optimizer_settings(training)
        trained = [*self.model.parameters(), *self.criterion.autoencoder_parameters()]
        adversary = self.criterion.discriminator_parameters()
        self.adam = torch.optim.Adam(trained, **settings)
        self.adversary_adam = torch.optim.Adam(adversary, **settings) if adversary else None
        shape = (training.batch_size, 3, resolution, resolution)
        self.images = torch.rand(shape, device=device) * 2 - 1
        latent = (training.batch_size, config.latent_dim, self.side, self.side)
        self.noise = torch.randn(latent, device=device)
        self.reconstruction = torch.rand(shape, device=device).requires_grad_(True)

    def parts(self) -> dict[str, Callable[[], object]]:
        """Name -> one repetition of a part."""
        parts: dict[str, Callable[[], object]] = {WHOLE: self.whole}
        criterion = self.criterion
        adaptive = isinstance(criterion.alignment and criterion.alignment.config, VFAlignment)
        if adaptive or criterion.discriminator is not None:
            parts[CONSTANT] = self.whole_with_constant_weights
        parts["autoencoder, forward and backward"] = self.autoencoder
        if criterion.perceptual is not None:
            parts["LPIPS, forward and backward"] = self.perceptual
        if criterion.discriminator is not None:
            parts["discriminator, both steps"] = self.discriminator
        if self.encoder is not None:
            parts["foundation encoder"] = self.features
            parts["alignment terms"] = self.alignment
        parts["optimisers"] = self.optimisers
        return parts

    def whole(self) -> None:
        """As the stage's loop does it, on a batch that is there."""
        features = self.features()
        with arithmetic(self.precision, self.device):
            loss = self.criterion.autoencoder_loss(
                self.model, self.images, self.noise, features, ALWAYS_ON
            )
        self._step(loss.total, self.adam)
        if self.adversary_adam is not None:
            with arithmetic(self.precision, self.device):
                adversary = self.criterion.discriminator_loss(self.images, loss.reconstruction)
            self._step(adversary, self.adversary_adam)

    def whole_with_constant_weights(self) -> None:
        """The same, its adaptive weights replaced by one."""
        alignment = self.criterion.alignment
        before = None if alignment is None else alignment.config
        if alignment is not None:
            alignment.config = dataclasses.replace(alignment.config, adaptive=False)
        try:
            with mock.patch.object(tokenizer_loss, "_balance_at", _one):
                self.whole()
        finally:
            if alignment is not None and before is not None:
                alignment.config = before

    def autoencoder(self) -> None:
        """Encoder and decoder, there and back."""
        with arithmetic(self.precision, self.device):
            z = self.model.encode(self.images).sample(self.noise)
            total = self.model.decode(z).float().mean()
        self.adam.zero_grad(set_to_none=True)
        total.backward()

    def perceptual(self) -> None:
        """LPIPS and its gradient by the reconstruction."""
        assert self.criterion.perceptual is not None
        with arithmetic(self.precision, self.device):
            distance = self.criterion.perceptual(self.images, self.reconstruction).mean()
            torch.autograd.grad(distance, self.reconstruction)

    def discriminator(self) -> None:
        """The autoencoder's term with its gradient, and the discriminator's own loss with its."""
        assert self.criterion.discriminator is not None
        assert self.adversary_adam is not None
        with arithmetic(self.precision, self.device):
            term = tokenizer_loss.generator_hinge_loss(
                self.criterion.discriminator(self.reconstruction)
            )
            torch.autograd.grad(term, self.reconstruction)
            loss = self.criterion.discriminator_loss(self.images, self.reconstruction)
        self.adversary_adam.zero_grad(set_to_none=True)
        loss.backward()

    def features(self) -> Tensor | None:
        """Frozen features of the batch."""
        if self.encoder is None:
            return None
        return self.encoder.features(self.images, grid=(self.side, self.side))

    def alignment(self) -> None:
        """Both terms and their gradient by the latent."""
        assert self.criterion.alignment is not None
        assert self.encoder is not None
        z = self.noise.detach().requires_grad_(True)
        target = torch.ones(len(z), self.encoder.feature_dim, self.side, self.side).to(z)
        with arithmetic(self.precision, self.device):
            terms = self.criterion.alignment(z, target)
            torch.autograd.grad(self.criterion.alignment.total(terms), z)

    def optimisers(self) -> None:
        """Both optimisers, on gradients that are there."""
        for adam in filter(None, (self.adam, self.adversary_adam)):
            for group in adam.param_groups:
                for weight in group["params"]:
                    if weight.grad is None:
                        weight.grad = torch.zeros_like(weight)
            adam.step()

    def _step(self, loss: Tensor, adam: torch.optim.Optimizer) -> None:
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()


def _one(weight: Tensor, *_: Any) -> Tensor:
    return weight.new_ones(())


def on_threads(function: Callable[[], object], threads: int) -> Callable[[], object]:
    """The function on so many threads; each Python thread has a number of its own."""

    def call() -> object:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return function()

    return call
