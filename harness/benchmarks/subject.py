"""The trial that is benched: cut down to what gives every stage its inputs in no time.

Networks have random weights and hardly trained ones, which cost what good ones do. The stages that
are not measured really run, so that their artifacts are those that the measured ones read.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import save_file

from harness.benchmarks.images import write_parquet
from harness.config.diffusers import DiffusersTokenizerConfig
from harness.config.encoders import InDomainEncoder
from harness.config.evaluation import NoDiagnostics
from harness.config.reference import TrainingSplit
from harness.config.resources import Resources
from harness.config.sweep import Point, Sweep, SweepFile
from harness.config.tokenizer import AlignedWith
from harness.config.training import TrainingConfig
from harness.config.trial import Trial
from harness.data import DigitsConfig
from harness.data.latents.folder import EncodedHere
from harness.data.pipelines import Workers
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store
from models.discriminator import DiscriminatorConfig
from models.foundation import TimmEncoderConfig
from models.guidance import NoGuidance
from models.lightningdit import DiTShape
from models.perceptual import LPIPSConfig, NoPerceptual, untrained_backbone
from models.repa import NoREPA

SMALLEST = DiTShape(depth=1, width=32, num_heads=2)
"""Generator that stands for any where only its place in the chain matters."""


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """The trial, where its artifacts lie, and on which device it is measured."""

    trial: Trial
    """Cut down; batch sizes, architectures and loss are the trial's own."""
    notes: dict[str, str]
    """What was replaced and why, by part of the trial."""
    store: Store
    device: torch.device
    resources: Resources
    batch_size: int | None
    """Batch of every training in place of the trial's own."""

    def stage(self, kind: str) -> Stage:
        """The trial's stage of a kind; `generator` and `generation` are of the smallest network."""
        plan = make_plan(_sweep_of(self.trial))
        return next(stage for stage in plan.stages if stage.kind == kind)

    def inputs(self, stage: Stage) -> dict[str, Artifact]:
        """Artifacts of a stage's inputs, made where they are not there yet."""
        return {name: self.artifact(source) for name, source in stage.inputs.items()}

    def artifact(self, stage: Stage) -> Artifact:
        """A stage's artifact, made with all it needs where it is not there yet.

        Raises:
            ConfigError: It could not be made.
        """
        for source in stage.inputs.values():
            self.artifact(source)
        gpus = 1.0 if self.device.type == "cuda" else 0.0
        outcome = run_stage(stage, self.store.root, self.resources, gpus)
        if outcome.status not in ("done", "reused"):
            raise ConfigError(f"{stage.kind} could not be made: {outcome.error}")
        return self.store.get(stage.kind, stage.key)

    def batch_of(self, training: TrainingConfig) -> TrainingConfig:
        """A training with the batch size asked for."""
        return dataclasses.replace(training, batch_size=self.batch_size or training.batch_size)


def make_subject(
    trial: Trial,
    folder: Path,
    device: torch.device,
    *,
    threads: int,
    decode_workers: Workers,
    batch_size: int | None,
    num_images: int,
) -> Subject:
    """Cut a trial down.

    Args:
        trial: As its sweep has it.
        folder: For generated images, stand-in weights and artifacts.
        device: Where to measure.
        threads: Threads to compute with.
        decode_workers: Threads that decode images.
        batch_size: Batch of every training; None: the trial's own.
        num_images: Generated images in place of the trial's own, unless these are the digits.
    """
    notes: dict[str, str] = {}
    data = trial.data
    if not isinstance(data, DigitsConfig):
        root = folder / "images"
        data = write_parquet(root, data.resolution, num_images, data.num_classes, decode_workers)
        notes["data"] = f"{num_images} generated images, since all would have to be encoded first"
    cut = dataclasses.replace(
        trial,
        data=data,
        tokenizer=_cut_tokenizer(trial, folder, notes),
        latents=dataclasses.replace(trial.latents, num_statistics=50, source=EncodedHere()),
        generator=_cut_generator(trial),
        evaluation=_cut_evaluation(trial, notes),
    )
    return Subject(
        trial=cut,
        notes=notes,
        store=Store(folder / "artifacts"),
        device=device,
        resources=Resources(cpus=threads),
        batch_size=batch_size,
    )


def _short(training: TrainingConfig) -> TrainingConfig:
    return dataclasses.replace(training, steps=1, warmup_steps=0)


def _cut_tokenizer(trial: Trial, folder: Path, notes: dict[str, str]) -> Any:
    config = trial.tokenizer
    if isinstance(config, DiffusersTokenizerConfig):
        return config
    loss, alignment = config.loss, config.alignment
    if isinstance(loss.perceptual, LPIPSConfig):
        path, notes["perceptual"] = _random_vgg16(folder), "VGG16 with random weights"
        loss = dataclasses.replace(
            loss, perceptual=dataclasses.replace(loss.perceptual, backbone_weights=str(path))
        )
    if isinstance(loss.discriminator, DiscriminatorConfig):
        notes["discriminator"] = "on from the first step"
        on = dataclasses.replace(loss.discriminator, start_step=0)
        loss = dataclasses.replace(loss, discriminator=on)
    if isinstance(alignment, AlignedWith):
        encoder = _cut_encoder(alignment.encoder)
        alignment = dataclasses.replace(alignment, encoder=encoder)
    return dataclasses.replace(
        config,
        loss=loss,
        alignment=alignment,
        training=_short(config.training),
        phases=(),
        checkpoint=None,
    )


def _cut_generator(trial: Trial) -> Any:
    if trial.generator is None:
        return None
    return dataclasses.replace(
        trial.generator,
        size=SMALLEST,
        training=_short(trial.generator.training),
        snapshots=(),
        repa=NoREPA(),
        checkpoint=None,
    )


def _cut_evaluation(trial: Trial, notes: dict[str, str]) -> Any:
    extractor = trial.evaluation.extractor
    if not isinstance(extractor, InDomainEncoder | TimmEncoderConfig):
        name = TimmEncoderConfig(name="inception_v3", weights="random", input_size=299)
        extractor, notes["extractor"] = name, "timm's inception_v3 with random weights"
    return dataclasses.replace(
        trial.evaluation,
        extractor=_cut_encoder(extractor),
        perceptual=NoPerceptual(),
        reference=TrainingSplit(),
        guidance=(NoGuidance(),),
        diagnostics=NoDiagnostics(),
        num_images=2,
        num_reference=2,
        num_reconstructions=2,
        sampling_seeds=1,
        keep_samples=False,
    )


def _cut_encoder(encoder: Any) -> Any:
    if isinstance(encoder, InDomainEncoder):
        training = dataclasses.replace(_short(encoder.training), batch_size=2)
        return dataclasses.replace(encoder, training=training)
    return dataclasses.replace(encoder, weights="random")


def _random_vgg16(folder: Path) -> Path:
    path = folder / "vgg16.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = untrained_backbone().state_dict()
        save_file({f"features.{name}": value for name, value in tensors.items()}, path)
    return path


def _sweep_of(trial: Trial) -> Sweep:
    file = SweepFile(name="bench", trial={})
    return Sweep(file=file, points=(Point(axes={}, trial=trial),), source="bench")
