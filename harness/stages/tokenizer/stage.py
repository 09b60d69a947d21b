"""Stage `tokenizer`: a VA-VAE trained on images, aligned with a frozen encoder or not.

One from a file, or a pretrained autoencoder of diffusers, is copied in place of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from harness.config.data import DataConfig
from harness.config.diffusers import DiffusersTokenizerConfig, identity
from harness.config.phases import phase_at
from harness.config.tokenizer import AnyTokenizerConfig, TokenizerConfig, describe_tokenizer
from harness.config.trial import Trial
from harness.config.weights import check_file, describe_lpips
from harness.data import open_dataset
from harness.data.dataset import left_out
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.machine.gradients import GradientSum
from harness.machine.random_streams import derive_seed, generator_for
from harness.schema.keys import KEY_UNLESS_DEFAULT
from harness.stages.encoder import load_encoder
from harness.stages.running.context import StageContext
from harness.stages.running.optimisation import (
    autocast,
    backward,
    end_step,
    optimizer_settings,
    restore_optimizer,
    start_step,
)
from harness.stages.tokenizer import diffusers
from harness.storage.artifacts import Artifact, write_tensors
from models import checkpoint
from models.autoencoder import Autoencoder
from models.batch_part import slices_of
from models.diffusers_autoencoder import DiffusersAutoencoder
from models.tokenizer_loss import TokenizerLoss

AnyAutoencoder = Autoencoder | DiffusersAutoencoder
"""What encodes images and decodes latents."""
VERSION = 1
"""Raised by hand when the numbers that this stage makes change."""


@dataclass(frozen=True, kw_only=True)
class TokenizerStage:
    """What the stage reads, beside the encoder it is aligned with."""

    tokenizer: AnyTokenizerConfig
    data: DataConfig
    perceptual_weights: str
    """What stands for the weights of LPIPS: their hashes; empty without."""
    checkpoint: str = field(default="", metadata=KEY_UNLESS_DEFAULT)
    """What stands for the file of trained weights: its hash; empty where they are trained here."""

    @classmethod
    def of(cls, trial: Trial) -> "TokenizerStage":
        """A trial's tokenizer."""
        config, perceptual_weights = trial.tokenizer, ""
        given = describe_tokenizer(config)
        if isinstance(config, DiffusersTokenizerConfig):
            config = identity(config)
        elif not given:
            perceptual_weights = describe_lpips(config.loss.perceptual)
        return cls(
            tokenizer=config,
            data=trial.data,
            perceptual_weights=perceptual_weights,
            checkpoint=given,
        )

    def build(self) -> AnyAutoencoder:
        """The untrained network; of a pretrained one, from the files that it is taken from."""
        if isinstance(self.tokenizer, DiffusersTokenizerConfig):
            return diffusers.build(self.tokenizer)
        return _network(self.tokenizer, self.data)


def run(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop: two Adams, autoencoder first, then the discriminator on the same images."""
    device, settings = context.device, config.tokenizer
    if isinstance(settings, DiffusersTokenizerConfig):
        return diffusers.take(settings, config.checkpoint, context)
    if config.checkpoint:
        return _take(config, settings, context)
    training, seed, schedule = settings.training, settings.seed, settings.schedule
    assert seed is not None
    side = config.data.resolution // settings.downsample
    encoder = None
    if "encoder" in context.inputs:
        encoder = load_encoder(context.inputs["encoder"], device, compiled=context.compile)
    torch.manual_seed(derive_seed(seed, "tokenizer", "weights"))
    layout = memory_format(device, context.channels_last)
    model = _network(settings, config.data).to(device).to(memory_format=layout).train()
    criterion = TokenizerLoss(
        settings.loss,
        settings.alignment,
        latent_dim=settings.latent_dim,
        feature_dim=None if encoder is None else encoder.feature_dim,
        in_channels=settings.architecture.in_channels,
    ).to(device)
    if training.precision == "bf16":
        criterion.round_perceptual()
    if context.compile:
        model.compile_trunks()
        criterion.compile_perceptual()
    trained = [*model.parameters(), *criterion.autoencoder_parameters()]
    optimizer = optimizer_settings(training, fused=context.fused_optimizer)
    adam = torch.optim.Adam(trained, **optimizer)
    adversary = criterion.discriminator_parameters()
    adversary_adam = torch.optim.Adam(adversary, **optimizer) if adversary else None
    count = training.batch_size
    own = context.world.part(count)
    model.divide(context.batch_part(count), context.slices)
    criterion.divide(context.batch_part(count), context.slices)
    gradients = GradientSum(trained, context.world)
    adversary_gradients = GradientSum(adversary, context.world)
    dataset = open_dataset(config.data, device)
    stream = BatchStream(
        dataset=dataset,
        split="train",
        batch_size=count,
        seed=derive_seed(seed, "tokenizer", "data"),
        augment=True,
        part=own,
    )
    curve = context.curve(training.steps)
    first = 0
    if resumed := context.resume():
        first, saved = resumed
        model.load_state_dict(saved["model"])
        criterion.load_state_dict(saved["criterion"])
        restore_optimizer(adam, saved["adam"])
        if adversary_adam:
            restore_optimizer(adversary_adam, saved["adversary_adam"])
    curve.rewind(first)

    def state() -> Mapping[str, Any]:
        curve.flush()
        return {
            "model": model.state_dict(),
            "criterion": criterion.state_dict(),
            "adam": adam.state_dict(),
            "adversary_adam": adversary_adam.state_dict() if adversary_adam else {},
        }

    batches = context.ahead(stream.batch, range(first, training.steps))
    for step in range(first, training.steps):
        phase = phase_at(schedule, step)
        criterion.enter(phase.loss, phase.alignment)
        if phase.resets_optimizers and step == phase.first_step:
            adam.state.clear()
            if adversary_adam:
                adversary_adam.state.clear()
        batch = step - phase.first_step
        torch.manual_seed(derive_seed(seed, "tokenizer", "dropout", step))
        random = generator_for(seed, "tokenizer", step, device=device)
        pixels, _ = next(batches)
        images = to_model_range(pixels.to(device, non_blocking=True))
        shape = (count, settings.latent_dim, side, side)
        noise = torch.randn(shape, generator=random, device=device)[own]
        features = None
        if encoder is not None:
            parts = slices_of(len(images), context.slices)
            features = torch.cat([encoder.features(images[p], grid=(side, side)) for p in parts])
        with autocast(training, device):
            loss = criterion.autoencoder_loss(model, images, noise, features, batch)
        start_step(adam, training, step)
        backward(loss.total, training)
        context.watch_gradient(step, end_step(adam, training, gradients))
        totals = {"autoencoder": loss.total}
        if adversary_adam and criterion.discriminator_is_on(batch):
            with autocast(training, device):
                adversary_loss = criterion.discriminator_loss(images, loss.reconstruction)
            start_step(adversary_adam, training, step)
            backward(adversary_loss, training)
            norm = end_step(adversary_adam, training, adversary_gradients)
            context.watch_gradient(step, norm)
            totals["adversary"] = adversary_loss
        for total in context.world.sum_terms(totals).values():
            context.watch(step, total)
        weights = {f"weight_{name}": weight for name, weight in loss.weights.items()}
        curve.note(step, {**loss.terms, **weights})
        context.after_step(
            step + 1,
            training.steps,
            lambda loss=loss: {"l1": float(loss.per_element["l1"])},
            state,
            images=training.batch_size,
        )
    curve.publish()
    write_tensors(context.work.payload / "model.safetensors", model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": training.steps * training.batch_size,
        **left_out(dataset, "train"),
    }


def _network(config: TokenizerConfig, data: DataConfig) -> Autoencoder:
    return Autoencoder(
        config.architecture, latent_dim=config.latent_dim, resolution=data.resolution
    )


def _take(
    config: TokenizerStage, settings: TokenizerConfig, context: StageContext
) -> Mapping[str, Any]:
    """The weights of a file in place of training; the settings say how they came to be."""
    assert settings.checkpoint is not None
    check_file(settings.checkpoint, config.checkpoint)
    model = _network(settings, config.data)
    checkpoint.load_tokenizer(model, Path(settings.checkpoint).expanduser())
    write_tensors(context.work.payload / "model.safetensors", model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": settings.training.steps * settings.training.batch_size,
        "checkpoint": f"{Path(settings.checkpoint).name}, {config.checkpoint}",
    }


def memory_format(
    device: torch.device, channels_last: bool | Literal["auto"] = "auto"
) -> torch.memory_format:
    """How images and convolutions lie in memory; moves rounding only. `auto`: last on CUDA."""
    wanted = device.type == "cuda" if channels_last == "auto" else channels_last
    return torch.channels_last if wanted else torch.contiguous_format


def load_tokenizer(
    artifact: Artifact,
    device: torch.device,
    *,
    compiled: bool = False,
    channels_last: bool | Literal["auto"] = "auto",
) -> AnyAutoencoder:
    """The network of an artifact, frozen and in evaluation mode, compiled if asked."""
    config: TokenizerStage = TypeAdapter(TokenizerStage).validate_python(artifact.record["config"])
    if isinstance(config.tokenizer, DiffusersTokenizerConfig):
        model = diffusers.load_copy(config.tokenizer, artifact)
    else:
        model = _network(config.tokenizer, config.data)
        model.load_state_dict(artifact.tensors("model.safetensors"))
    model.requires_grad_(False).eval().to(device)
    if compiled:
        model.compile_trunks()
    return model.to(memory_format=memory_format(device, channels_last))
