"""Encoder kind `in_domain`: a timm network trained here as a classifier of the data set."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from harness.config.encoders import InDomainEncoder
from harness.config.trial import Trial
from harness.data import open_dataset
from harness.data.dataset import ImageDataset, Split, batches, left_out
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.machine.gradients import GradientSum
from harness.machine.random_streams import derive_seed
from harness.machine.world import World
from harness.metrics.classification import labels_met
from harness.metrics.image_mean import ImageMean
from harness.schema.reading import ConfigError
from harness.stages.encoder import timm
from harness.stages.encoder.kind import EncoderKind, EncoderStage, Place
from harness.stages.flops import training_images
from harness.stages.running.context import StageContext
from harness.stages.running.optimisation import (
    arithmetic,
    backward,
    end_step,
    optimizer_settings,
    start_step,
)
from harness.storage.artifacts import write_tensors
from models.batch_part import slices_of
from models.foundation import FeatureEncoder, TimmEncoderConfig


def stage(config: InDomainEncoder, trial: Trial, place: Place) -> EncoderStage:
    """It is trained on the trial's images; ConfigError where all are of one class."""
    if trial.data.num_classes < 2:
        raise ConfigError(
            f"must not be in_domain where data.num_classes is {trial.data.num_classes}: a "
            "classifier of one class learns no features; use a pretrained network (kind timm, "
            "inception or python)",
            path=f"trial.{place.path}.kind",
        )
    return EncoderStage(encoder=config, data=trial.data, weights=config.describe())


def build(config: EncoderStage) -> FeatureEncoder:
    """The network with timm's random weights."""
    encoder = _settings(config)
    assert config.data is not None
    return FeatureEncoder(
        TimmEncoderConfig(
            name=encoder.name,
            weights="random",
            input_size=encoder.input_size or config.data.resolution,
            model_args={**encoder.model_args, "num_classes": config.data.num_classes},
        )
    )


def make(config: EncoderStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop: a classifier of the training split, AdamW on the cross-entropy."""
    encoder = _settings(config)
    device, training = context.device, encoder.training
    assert config.data is not None
    dataset = open_dataset(config.data, device)
    torch.manual_seed(derive_seed(encoder.seed, "encoder", "weights"))
    network = build(config).to(device)
    # A FeatureEncoder is frozen and in evaluation mode from the start; here it is trained first.
    network.model.train().requires_grad_(True)
    if context.resources.compile:
        network.model.compile()
    optimizer = torch.optim.AdamW(
        network.model.parameters(),
        **optimizer_settings(training, fused=context.resources.fused_optimizer),
    )
    # It is small, and timm's networks normalise and drop as they like: every worker trains it all.
    gradients = GradientSum(network.model.parameters(), World())
    stream = BatchStream(
        dataset=dataset,
        split="train",
        batch_size=training.batch_size,
        seed=derive_seed(encoder.seed, "encoder", "data"),
        augment=True,
        max_shift=encoder.max_shift,
    )
    curve = context.curve(training.steps)
    first = 0
    if resumed := context.resume():
        first, saved = resumed
        network.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    curve.rewind(first)

    def state() -> Mapping[str, Any]:
        return {"model": network.model.state_dict(), "optimizer": optimizer.state_dict()}

    upcoming = context.ahead(stream.batch, range(first, training.steps))
    for step in range(first, training.steps):
        torch.manual_seed(derive_seed(encoder.seed, "encoder", "dropout", step))
        images, labels = next(upcoming)
        inputs = network.prepare(
            to_model_range(images.to(device, non_blocking=True)), network.input_size
        )
        targets = labels.to(device, non_blocking=True)
        start_step(optimizer, training, step)
        loss = torch.zeros((), device=device)
        for rows in slices_of(len(inputs), context.slices):
            with arithmetic(training.precision, device):
                logits = network.model(inputs[rows]).float()
            share = len(logits) / len(inputs)
            part = share * functional.cross_entropy(logits, targets[rows])
            backward(part, training)
            loss = loss + part.detach()
        context.watch_gradient(step, end_step(optimizer, training, gradients))
        context.watch(step, loss)
        curve.note(step, {"loss": loss})
        context.after_step(
            step + 1,
            training.steps,
            lambda loss=loss: {"loss": float(loss.detach())},
            state,
            images=training.batch_size,
        )
    curve.close()
    network.eval().requires_grad_(False)
    write_tensors(context.work.payload / "model.safetensors", network.model.state_dict())
    return {
        "feature_dim": network.feature_dim,
        **_accuracies(
            network,
            dataset,
            device,
            lambda done, total: context.after_batch("accuracy", done, total, training.steps, state),
        ),
        **left_out(dataset, "train", "eval"),
    }


@torch.no_grad()
def _accuracies(
    network: FeatureEncoder,
    dataset: ImageDataset,
    device: torch.device,
    after_batch: Callable[[int, int], None],
) -> dict[str, float]:
    """Share of each split's images that the network puts into their class; `after_batch` is called
    with the images done and those in all, first with none done."""
    # The accuracy on images that it has not seen says what its features are worth; that on its
    # training images, beside it, says how far it has learnt them by heart.
    splits: tuple[Split, Split] = ("eval", "train")
    total = sum(dataset.num_images(split) for split in splits)
    done, found = 0, dict[str, float]()
    after_batch(done, total)
    for split in splits:
        labels = torch.from_numpy(dataset.labels(split).copy())
        correct = ImageMean.empty(device)
        for indices in batches(dataset.num_images(split), 500):
            images = to_model_range(dataset.images(split, indices).to(device))
            correct = correct.update(labels_met(network.logits(images), labels[indices]))
            done += len(indices)
            after_batch(done, total)
        found[f"{split}_accuracy"] = correct.compute()
    return found


def trained_images(config: EncoderStage) -> int:
    """Images that it is trained with."""
    return training_images(_settings(config).training)


def _cheapened(config: InDomainEncoder) -> InDomainEncoder:
    return replace(config, training=replace(config.training, batch_size=2))


def _settings(config: EncoderStage) -> InDomainEncoder:
    assert isinstance(config.encoder, InDomainEncoder)
    return config.encoder


KIND = EncoderKind(
    stage=stage,
    build=build,
    make=make,
    load=lambda config, artifact: timm.filled(build(config), artifact),
    classifies_labels=True,
    trained_images=trained_images,
    cheapened=_cheapened,
)
