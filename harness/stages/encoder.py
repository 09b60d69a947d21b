"""Stage `encoder`: a frozen feature network, trained here as a classifier or taken from a file."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional

from harness.config.data import DataConfig
from harness.config.encoders import InDomainEncoder, MetricExtractor
from harness.config.trial import Trial
from harness.config.weights import describe_weights, missing_weights
from harness.data import open_dataset
from harness.data.dataset import ImageDataset, Split, batches, left_out
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.machine.gradients import GradientSum
from harness.machine.random_streams import derive_seed
from harness.machine.world import World
from harness.metrics.classification import labels_met
from harness.metrics.extractors import (
    EncoderExtractor,
    ExtractionConfig,
    FeatureExtractor,
    InceptionConfig,
    InceptionExtractor,
)
from harness.metrics.image_mean import ImageMean
from harness.stages.flops import (
    ADAM_STATE,
    BYTES,
    FORWARDS_A_STEP,
    count_forward,
    empty_image,
    of_network,
    training_images,
)
from harness.stages.running.context import StageContext
from harness.stages.running.optimisation import (
    autocast,
    backward,
    end_step,
    optimizer_settings,
    start_step,
)
from harness.stages.stage import Estimate, Stage, StageKind
from harness.storage.artifacts import Artifact, write_tensors
from models.batch_part import slices_of
from models.foundation import FeatureEncoder, TimmEncoderConfig

INCEPTION_FLOPS = 11.4e9
"""Inception-v3 at 299x299: 5.7e9 multiply-adds (Szegedy et al., arXiv 1512.00567)."""
INCEPTION_PARAMETERS = 23_900_000
INCEPTION_FEATURES = 2048


@dataclass(frozen=True, kw_only=True)
class EncoderStage:
    """Configuration of the stage, which has no inputs."""

    encoder: InDomainEncoder | TimmEncoderConfig | InceptionConfig
    """The network."""
    data: DataConfig | None
    """Images it is trained on; None where it comes from elsewhere."""
    weights: str
    """Hash or origin of weights from elsewhere."""


def stage_of(config: MetricExtractor, trial: Trial, role: str) -> Stage:
    """The stage of a feature network, trained on a trial's data where it is trained here.

    Args:
        config: The network.
        trial: Whose data it is trained on.
        role: What it is for, in words.
    """
    stage = EncoderStage(
        encoder=config,
        data=trial.data if isinstance(config, InDomainEncoder) else None,
        weights=describe_weights(config),
    )
    name = getattr(config, "name", config.kind)
    return Stage(kind="encoder", config=stage, inputs={}, label=f"{name} ({role})")


def run(config: EncoderStage, context: StageContext) -> Mapping[str, Any]:
    """Train or fetch the network and store its weights."""
    encoder = config.encoder
    if isinstance(encoder, InDomainEncoder):
        return _train(config, encoder, context)
    if isinstance(encoder, InceptionConfig):
        InceptionExtractor(encoder)
        # The suffix says how the file is read.
        copy = context.work.payload / f"inception{encoder.path.suffix}"
        shutil.copyfile(encoder.path, copy)
        return {}
    # `weights: random` is for tests and smoke runs; the seed makes it the same network everywhere.
    torch.manual_seed(derive_seed(0, "encoder", "random weights"))
    network = FeatureEncoder(encoder)
    write_tensors(context.work.payload / "model.safetensors", network.model.state_dict())
    return {"feature_dim": network.feature_dim}


def load_encoder(
    artifact: Artifact, device: torch.device, *, compiled: bool = False
) -> FeatureEncoder:
    """Build the network of an encoder artifact (not Inception) on a device, frozen.

    Args:
        artifact: Its weights.
        device: Where to put it.
        compiled: Whether dense features come from a compiled network.
    """
    stage: EncoderStage = TypeAdapter(EncoderStage).validate_python(artifact.record["config"])
    network = build_network(stage)
    network.model.load_state_dict(artifact.tensors("model.safetensors"))
    if compiled:
        network.compile_features()
    return network.to(device)


def load_extractor(
    artifact: Artifact, device: torch.device, extraction: ExtractionConfig
) -> FeatureExtractor:
    """Build the feature extractor of a metric from an encoder artifact."""
    encoder = artifact.record["config"]["encoder"]
    if encoder["kind"] == "inception":
        path = artifact.file(_weights_file(artifact))
        copied = InceptionConfig(weights=str(path), sha256=encoder["sha256"])
        return InceptionExtractor(copied, device, extraction)
    network = load_encoder(artifact, device)
    return EncoderExtractor(
        network.outputs,
        name=f"{encoder['kind']} {encoder['name']}",
        identity=artifact.sha256("model.safetensors"),
        feature_dim=network.feature_dim,
        device=device,
        has_logits=encoder["kind"] == "in_domain",
        extraction=extraction,
    )


def extractor_identity(artifact: Artifact) -> str:
    """Hash of an extractor's weights, for the protocol."""
    return artifact.sha256(_weights_file(artifact))


def _weights_file(artifact: Artifact) -> str:
    (name,) = artifact.record["files"]
    return name


def build_network(config: EncoderStage) -> FeatureEncoder:
    """The network of an encoder stage (not Inception), with timm's random weights."""
    encoder = config.encoder
    if isinstance(encoder, TimmEncoderConfig):
        return FeatureEncoder(dataclasses.replace(encoder, weights="random"))
    assert isinstance(encoder, InDomainEncoder)
    assert config.data is not None
    return FeatureEncoder(
        TimmEncoderConfig(
            name=encoder.name,
            weights="random",
            input_size=encoder.input_size or config.data.resolution,
            model_args={**encoder.model_args, "num_classes": config.data.num_classes},
        )
    )


def _train(
    config: EncoderStage, encoder: InDomainEncoder, context: StageContext
) -> Mapping[str, Any]:
    """One flat loop: a classifier of the training split, AdamW on the cross-entropy."""
    device, training = context.device, encoder.training
    assert config.data is not None
    dataset = open_dataset(config.data, device)
    torch.manual_seed(derive_seed(encoder.seed, "encoder", "weights"))
    network = build_network(config).to(device)
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
            with autocast(training, device):
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
    """Share of the images of each split whose class the network names.

    Args:
        network: The trained classifier.
        dataset: The images.
        device: Where to compute.
        after_batch: Called with the images done and those in all, first with none done.
    """
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


def estimate(stage: Stage) -> Estimate:
    """The training, where the network is trained here."""
    config: EncoderStage = stage.config
    if isinstance(config.encoder, InceptionConfig):
        size = BYTES * INCEPTION_PARAMETERS
        return Estimate(flops=0.0, disk_bytes=size, parameters=INCEPTION_PARAMETERS)
    parameters, per_image = count_forward(config, lambda: forward_of(config))
    size = BYTES * parameters
    if not isinstance(config.encoder, InDomainEncoder):
        return Estimate(flops=0.0, disk_bytes=size, parameters=parameters, state_bytes=size)
    images = training_images(config.encoder.training)
    return Estimate(
        flops=images * FORWARDS_A_STEP * per_image,
        disk_bytes=size,
        parameters=parameters,
        images=images,
        state_bytes=ADAM_STATE * size,
    )


def flops_per_image(config: EncoderStage, cells: int | None = None) -> float:
    """FLOPs of one image through the network.

    Args:
        config: The network.
        cells: Side of the grid of dense features that is asked of it; absent: the image has the
            network's own input size.
    """
    if isinstance(config.encoder, InceptionConfig):
        return INCEPTION_FLOPS
    shape = config if cells is None else [config, cells]
    return count_forward(shape, lambda: forward_of(config, cells))[1]


def feature_dim_of(config: EncoderStage) -> int:
    """Width of the network's features."""
    if isinstance(config.encoder, InceptionConfig):
        return INCEPTION_FEATURES

    def learn() -> tuple[float, ...]:
        with torch.device("meta"):
            return (build_network(config).feature_dim,)

    return int(of_network("feature dim", config, learn, num_numbers=1)[0])


def forward_of(config: EncoderStage, cells: int | None = None) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network and an image of its own size, or of the size that gives a grid of `cells`."""
    network = build_network(config)
    size = network.input_size if cells is None else (cells * network.stride,) * 2
    return network.model, empty_image(*size)


def missing(config: EncoderStage, path: str) -> list[MissingItem]:
    """Images that it is trained on, or its weights."""
    images = config.data.missing() if config.data is not None else []
    return [*images, *missing_weights(config.encoder, path)]


KIND = StageKind(version=1, run=run, estimate=estimate, missing=missing, shares_work=False)
