"""Tokenizer kind `va_vae`: trained here, aligned with a frozen encoder or not, or from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from harness.config.phases import phase_at
from harness.config.tokenizer import AnyTokenizerConfig, TokenizerConfig
from harness.config.trial import Trial
from harness.config.weights import (
    check_file,
    describe_lpips,
    missing_checkpoint,
    missing_lpips,
)
from harness.data import open_dataset
from harness.data.dataset import left_out
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.machine.gradients import GradientSum
from harness.machine.random_streams import derive_seed, generator_for
from harness.stages import encoder
from harness.stages.flops import FORWARDS_A_STEP, count_forward, empty_image, training_images
from harness.stages.running.context import StageContext
from harness.stages.running.optimisation import (
    autocast,
    backward,
    end_step,
    optimizer_settings,
    restore_optimizer,
    start_step,
)
from harness.stages.stage import Stage
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage, memory_format
from harness.storage.artifacts import Artifact, write_tensors
from models import checkpoint
from models.autoencoder import Autoencoder
from models.batch_part import slices_of
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from models.perceptual import LPIPSConfig
from models.tokenizer_loss import ADVERSARY, AUTOENCODER, TokenizerLoss


def stage(trial: Trial) -> TokenizerStage:
    """Make the configuration of the stage from a trial."""
    settings = _settings(trial.tokenizer)
    given = settings.describe()
    return TokenizerStage(
        tokenizer=settings,
        data=trial.data,
        perceptual_weights="" if given else describe_lpips(settings.loss.perceptual),
        checkpoint=given,
    )


def build(config: TokenizerStage) -> Autoencoder:
    """Builds the untrained network."""
    settings = _settings(config.tokenizer)
    return Autoencoder(
        settings.architecture, latent_dim=settings.latent_dim, resolution=config.data.resolution
    )


def make(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop: two Adams, autoencoder first, then the discriminator on the same images."""
    device, settings = context.device, _settings(config.tokenizer)
    if config.checkpoint:
        return _take(config, settings, context)
    training, seed, schedule = settings.training, settings.seed, settings.schedule
    assert seed is not None

    # ---- networks
    side = config.data.resolution // settings.downsample
    foundation = None
    if "encoder" in context.inputs:
        foundation = encoder.load_encoder(
            context.inputs["encoder"], device, compiled=context.resources.compile
        )
    torch.manual_seed(derive_seed(seed, "tokenizer", "weights"))
    layout = memory_format(device, context.resources.channels_last)
    model = build(config).to(device).to(memory_format=layout).train()
    criterion = TokenizerLoss(
        settings.loss,
        settings.alignment,
        latent_dim=settings.latent_dim,
        feature_dim=None if foundation is None else foundation.feature_dim,
        in_channels=settings.architecture.in_channels,
    ).to(device)
    # LPIPS is frozen: its weights are rounded once rather than at every step under autocast, with
    # the same bits.
    if training.precision == "bf16":
        criterion.round_perceptual()
    # The last convolutions stay eager: adaptive weights take gradients with respect to them.
    if context.resources.compile:
        model.compile_trunks()
        criterion.compile_perceptual()

    # ---- optimisers: the autoencoder (with the alignment's projection) and its adversary
    trained = [*model.parameters(), *criterion.autoencoder_parameters()]
    optimizer = optimizer_settings(training, fused=context.resources.fused_optimizer)
    adam = torch.optim.Adam(trained, **optimizer)
    adversary = criterion.discriminator_parameters()
    adversary_adam = torch.optim.Adam(adversary, **optimizer) if adversary else None
    # Losses and normalisations that reach over a batch must see all of it, whatever part of it
    # this worker holds: a batch is the same batch on any number of devices.
    count = training.batch_size
    own = context.world.part(count)
    model.divide(context.batch_part(count), context.slices)
    criterion.divide(context.batch_part(count), context.slices)
    gradients = GradientSum(trained, context.world)
    adversary_gradients = GradientSum(adversary, context.world)

    # ---- data
    dataset = open_dataset(config.data, device)
    stream = BatchStream(
        dataset=dataset,
        split="train",
        batch_size=count,
        seed=derive_seed(seed, "tokenizer", "data"),
        augment=True,
        part=own,
    )

    # ---- resumption
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
        # ---- phase: its weights and margins; the discriminator's start is counted anew in each
        phase = phase_at(schedule, step)
        criterion.enter(phase.loss, phase.alignment)
        if phase.resets_optimizers and step == phase.first_step:
            adam.state.clear()
            if adversary_adam:
                adversary_adam.state.clear()
        # The discriminator's start is counted from the beginning of its phase, as published.
        batch = step - phase.first_step

        # ---- data. Every random number is a function of seed, purpose and step, and noise is drawn
        # for the whole batch: so a resumed run, and any number of workers, sees the same numbers.
        torch.manual_seed(derive_seed(seed, "tokenizer", "dropout", step))
        # Parts of the step are profiler ranges, so that `harness.bench` times this loop itself.
        # One takes a few microseconds where nobody profiles, of a step of tens of milliseconds.
        with record_function("data"):
            random = generator_for(seed, "tokenizer", step, device=device)
            pixels, _ = next(batches)
            images = to_model_range(pixels.to(device, non_blocking=True))
            shape = (count, settings.latent_dim, side, side)
            noise = torch.randn(shape, generator=random, device=device)[own]
        features = None
        if foundation is not None:
            # The encoder is not differentiated, so its slices need no more than its activations.
            parts = slices_of(len(images), context.slices)
            with record_function("foundation encoder"):
                features = torch.cat(
                    [foundation.features(images[p], grid=(side, side)) for p in parts]
                )

        # ---- forward, loss and step of the autoencoder
        with autocast(training, device):
            loss = criterion.autoencoder_loss(model, images, noise, features, batch)
        with record_function(AUTOENCODER):
            start_step(adam, training, step)
            backward(loss.total, training)
        with record_function("optimisers"):
            norm = end_step(adam, training, gradients)
        context.watch_gradient(step, norm)
        totals = {"autoencoder": loss.total}

        # ---- forward, loss and step of the discriminator, on the same images and reconstructions
        if adversary_adam and criterion.discriminator_is_on(batch):
            with record_function(ADVERSARY):
                with autocast(training, device):
                    adversary_loss = criterion.discriminator_loss(images, loss.reconstruction)
                start_step(adversary_adam, training, step)
                backward(adversary_loss, training)
            with record_function("optimisers"):
                norm = end_step(adversary_adam, training, adversary_gradients)
            context.watch_gradient(step, norm)
            totals["adversary"] = adversary_loss

        # ---- bookkeeping
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


def _take(
    config: TokenizerStage, settings: TokenizerConfig, context: StageContext
) -> Mapping[str, Any]:
    """The weights of a file in place of training; the settings say how they came to be."""
    assert settings.checkpoint is not None
    check_file(settings.checkpoint, config.checkpoint)
    model = build(config)
    checkpoint.load_tokenizer(model, Path(settings.checkpoint).expanduser())
    write_tensors(context.work.payload / "model.safetensors", model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": settings.training.steps * settings.training.batch_size,
        "checkpoint": f"{Path(settings.checkpoint).name}, {config.checkpoint}",
    }


def load(config: TokenizerStage, artifact: Artifact) -> Autoencoder:
    """Builds the network with the weights of an artifact."""
    model = build(config)
    model.load_state_dict(artifact.tensors("model.safetensors"))
    return model


def missing(config: TokenizerStage) -> list[MissingItem]:
    """The weights of LPIPS, or the file that takes the place of a training."""
    settings = _settings(config.tokenizer)
    if settings.checkpoint is None:
        return missing_lpips(settings.loss.perceptual, "tokenizer.loss.perceptual")
    return missing_checkpoint(
        "the tokenizer's weights", settings.checkpoint, "tokenizer.checkpoint"
    )


def trained_images(config: TokenizerStage) -> int:
    """Images that it is trained with here."""
    return 0 if config.checkpoint else training_images(_settings(config.tokenizer).training)


def needs(trial: Trial) -> Mapping[str, Stage]:
    """The network that its training looks to."""
    settings = _settings(trial.tokenizer)
    looks_to = settings.encoders.get("alignment.encoder")
    if settings.is_given or looks_to is None:
        return {}
    return {"encoder": encoder.stage_of(looks_to, trial, "alignment encoder")}


def training_flops(config: TokenizerStage, inputs: Mapping[str, Stage], forward: float) -> float:
    """FLOPs of its training, the networks of its loss included.

    Per image: three forwards of the autoencoder, one of the alignment encoder, three of LPIPS'
    VGG16 (two images forward, one backward to the pixels) and eight of the discriminator (forward
    and backward to the pixels, then two images forward and backward to its weights).
    """
    settings, side = _settings(config.tokenizer), config.data.resolution
    loss, per_image = settings.loss, FORWARDS_A_STEP * forward
    if "encoder" in inputs:
        cells = side // settings.downsample
        per_image += encoder.flops_per_image(inputs["encoder"].config, cells)
    if isinstance(loss.perceptual, LPIPSConfig):
        per_image += 3 * count_forward(("vgg16", side), lambda: _vgg16_forward(side))[1]
    if isinstance(loss.discriminator, DiscriminatorConfig):
        network = loss.discriminator
        per_image += (
            8
            * count_forward(
                (network, side), lambda: (PatchDiscriminator(network), empty_image(side, side))
            )[1]
        )
    return trained_images(config) * per_image


def _vgg16_forward(side: int) -> tuple[nn.Module, tuple[Any, ...]]:
    from torchvision.models import vgg16  # Importing torchvision takes seconds.

    return vgg16().features, empty_image(side, side)


def _settings(config: AnyTokenizerConfig) -> TokenizerConfig:
    assert isinstance(config, TokenizerConfig)
    return config


KIND = TokenizerKind(
    stage=stage,
    build=build,
    make=make,
    load=load,
    missing=missing,
    needs=needs,
    trained_images=trained_images,
    training_flops=training_flops,
)
