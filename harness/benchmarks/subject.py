"""The trial that is benched, cut down so that every stage has its inputs in no time.

Networks have random weights or are hardly trained, which costs what good ones cost. The stages that
are not measured really run, so that their artifacts are those that the measured ones read.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import save_file

from harness.benchmarks.generated import write_parquet
from harness.config.encoders import EncoderSettings
from harness.config.evaluation import NoDiagnostics
from harness.config.generator_settings import GeneratorBase
from harness.config.reference import TrainingSplit
from harness.config.resources import Resources
from harness.config.sweep import Point, Sweep, SweepFile
from harness.config.training import TrainingConfig
from harness.config.trial import Trial
from harness.data.latents.folder import EncodedHere
from harness.data.pipelines import Workers
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError, parse_yaml, validate
from harness.stages.encoder.stage import kind_of as encoder_kind_of
from harness.stages.generator.kinds import kind_of
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store
from models.discriminator import DiscriminatorConfig
from models.guidance import NoGuidance
from models.perceptual import LPIPSConfig, NoPerceptual, untrained_backbone
from models.repa import NoREPA, REPAConfig

PUBLISHED_SIZES = ("B", "L", "XL")
SMALL_SIZES = ("pico", "nano", "mini", "tiny", "S")

# Batches are those of one of the published 8 GPUs.
_PUBLISHED = """
data: {kind: image_folder, name: imagenet, root: imagenet, resolution: 256, num_classes: 1000,
       num_train_images: 1281167, num_eval_images: 50000}
tokenizer:
  latent_dim: 32
  architecture: {}
  loss: {perceptual: {kind: lpips}, discriminator: {kind: patchgan}}
  alignment: {kind: vf, encoder: {kind: timm, name: vit_large_patch14_dinov2.lvd142m}}
  training: {steps: 1, batch_size: 32, learning_rate: 1.0e-4, betas: [0.5, 0.9]}
generator:
  size: XL
  training: {steps: 1, batch_size: 128, learning_rate: 2.0e-4, betas: [0.9, 0.95], precision: bf16}
evaluation:
  extractor: {kind: timm, name: inception_v3, input_size: 299}
  sampler: {kind: euler, num_steps: 250, timestep_shift: 0.3}
  batch_size: 32
"""
_SMALL = """
data: {kind: parquet, name: cifar10, root: cifar10, resolution: 32, num_classes: 10,
       num_train_images: 50000, num_eval_images: 10000}
tokenizer:
  latent_dim: 16
  architecture: {base_width: 32, width_multipliers: [1, 2, 4], num_blocks: 1,
                 attention_resolutions: [8]}
  loss: {perceptual: {kind: lpips}, discriminator: {kind: patchgan}}
  alignment:
    kind: vf
    encoder:
      kind: in_domain
      name: vit_tiny_patch16_224
      model_args: {img_size: 32, patch_size: 4, depth: 4, class_token: false, global_pool: avg}
      training: {steps: 1, batch_size: 8, learning_rate: 1.0e-3}
  training: {steps: 1, batch_size: 8, learning_rate: 2.0e-4, precision: bf16}
generator:
  size: tiny
  training: {steps: 1, batch_size: 16, learning_rate: 5.0e-4, precision: bf16}
evaluation:
  extractor: {kind: in_domain, name: resnet18, input_size: 64,
              training: {steps: 1, batch_size: 8, learning_rate: 1.0e-3}}
  sampler: {kind: euler, num_steps: 50, timestep_shift: 0.3}
  batch_size: 32
"""


def default_trial(device: torch.device) -> Trial:
    """Gives f16d32 with its published losses on CUDA, and f4d16 at 32 pixels elsewhere."""
    return validate(Trial, parse_yaml(_PUBLISHED if device.type == "cuda" else _SMALL))


def size_names() -> tuple[str, ...]:
    """Names that `default_sizes` knows."""
    settings = default_trial(torch.device("cpu")).generator
    assert settings is not None
    return tuple(kind_of(settings).sizes)


def default_sizes(
    device: torch.device, asked: Sequence[str] | None = None
) -> dict[str, GeneratorBase]:
    """Names the generators to measure, small ones first; rows tell which a device cannot take."""
    names = PUBLISHED_SIZES if device.type == "cuda" else (*SMALL_SIZES, *PUBLISHED_SIZES)
    settings = default_trial(device).generator
    assert settings is not None
    kind = kind_of(settings)
    sized = (kind.resized(settings, kind.sizes[name]) for name in asked or names)
    return {named(each): each for each in sized}


def named(settings: GeneratorBase) -> str:
    """What rows call a generator."""
    return f"{kind_of(settings).name} {settings.label}"


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """The trial, where its artifacts lie, and on which device it is measured."""

    trial: Trial
    """Cut down; batch sizes, architectures and loss are the trial's own."""
    notes: dict[str, str]
    """Replacements and their reasons, by part of the trial."""
    store: Store
    device: torch.device
    resources: Resources
    batch_size: int | None
    """Batch of every training in place of the trial's own."""

    def stage(self, kind: str) -> Stage:
        """The trial's stage of a kind; `generator` and `generation` are of the smallest network."""
        point = Point(axes={}, trial=self.trial)
        sweep = Sweep(file=SweepFile(name="bench", trial={}), points=(point,), source="bench")
        return next(stage for stage in make_plan(sweep).stages if stage.kind == kind)

    def inputs(self, stage: Stage) -> dict[str, Artifact]:
        """Artifacts of a stage's inputs, made where they are not there yet."""
        return {name: self.artifact(source) for name, source in stage.inputs.items()}

    def artifact(self, stage: Stage) -> Artifact:
        """A stage's artifact, made with all it needs where it is not there yet."""
        self.inputs(stage)
        gpus = 1.0 if self.device.type == "cuda" else 0.0
        outcome = run_stage(stage, self.store.root, self.resources, gpus)
        if outcome.status not in ("done", "reused"):
            raise ConfigError(f"{stage.kind} could not be made: {outcome.error}")
        return self.store.get(stage.kind, stage.key)

    def batch_of(self, training: TrainingConfig) -> TrainingConfig:
        """A training with the batch size asked for."""
        return dataclasses.replace(training, batch_size=self.batch_size or training.batch_size)


FEW = 10_000
"""Images that are encoded within a minute or two on a CPU core."""


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
    """Cuts a trial down; stand-in weights, artifacts and `num_images` generated images (unless the
    trial's are at hand and few) go into `folder`."""
    notes: dict[str, str] = {}
    data, generator, extractor = trial.data, trial.generator, trial.evaluation.extractor
    if data.missing() or data.num_train_images > FEW:
        root = folder / "images"
        data = write_parquet(root, data.resolution, num_images, data.num_classes, decode_workers)
        notes["data"] = f"{num_images} generated images, since all would have to be encoded first"
    if generator is not None:
        kind = kind_of(generator)
        if kind.smallest is not None:
            generator = kind.resized(generator, kind.smallest)
        generator = _cut(generator, folder, notes)
    cheapened = encoder_kind_of(extractor).cheapened(extractor)
    if cheapened.kind != extractor.kind:
        notes["extractor"] = f"{cheapened.kind}'s {cheapened.name} with random weights"
    evaluation = dataclasses.replace(
        trial.evaluation,
        extractor=_cut(cheapened, folder, notes),
        perceptual=NoPerceptual(),
        reference=TrainingSplit(),
        guidance=(NoGuidance(),),
        diagnostics=NoDiagnostics(),
        num_images=2,
        num_reference=2,
        num_reconstructions=2,
        sampling_seeds=1,
        keep="none",
        keep_samples=False,
    )
    cut = dataclasses.replace(
        trial,
        data=data,
        tokenizer=_cut(trial.tokenizer, folder, notes),
        latents=dataclasses.replace(trial.latents, num_statistics=50, source=EncodedHere()),
        generator=generator,
        evaluation=evaluation,
    )
    return Subject(
        trial=cut,
        notes=notes,
        store=Store(folder / "artifacts"),
        device=device,
        resources=Resources(cpus=threads),
        batch_size=batch_size,
    )


def _cut(config: Any, folder: Path, notes: dict[str, str]) -> Any:
    """Cuts all trainings, networks of losses and given weights inside a configuration, wherever
    they stand, so that it need not know a kind of tokenizer or generator."""
    if isinstance(config, TrainingConfig):
        return dataclasses.replace(config, steps=1, warmup_steps=0, constant_steps=0)
    if isinstance(config, EncoderSettings):
        config = encoder_kind_of(config).cheapened(config)
    if isinstance(config, LPIPSConfig):
        notes["perceptual"] = "VGG16 with random weights"
        return dataclasses.replace(config, backbone_weights=str(_random_vgg16(folder)))
    if isinstance(config, REPAConfig):
        return NoREPA()
    if isinstance(config, DiscriminatorConfig):
        notes["discriminator"] = "on from the first step"
        return dataclasses.replace(config, start_step=0)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    names = [each.name for each in dataclasses.fields(config)]
    changed = {name: _cut(getattr(config, name), folder, notes) for name in names}
    # Its phases would not add up to one step, and given weights would take the training's place.
    untrained = {"phases": (), "snapshots": (), "checkpoint": None, "initial_weights": None}
    changed |= {name: untrained[name] for name in names if name in untrained}
    return dataclasses.replace(config, **changed)


def _random_vgg16(folder: Path) -> Path:
    path = folder / "vgg16.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = untrained_backbone().state_dict()
        save_file({f"features.{name}": value for name, value in tensors.items()}, path)
    return path
