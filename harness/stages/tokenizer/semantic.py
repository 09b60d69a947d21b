"""Tokenizer kinds `semvae` and `pca`: latents of features of a frozen network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harness.config.data import published
from harness.config.semantic import PrincipalComponentsConfig, SemVAEConfig
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.trial import Trial
from harness.config.weights import check_file, missing_checkpoint
from harness.data import open_dataset
from harness.data.dataset import left_out, take
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.data.stream import batch_indices
from harness.machine.gradients import GradientSum
from harness.machine.random_streams import derive_seed, generator_for
from harness.schema.reading import ConfigError
from harness.stages.encoder import stage as encoder
from harness.stages.encoder.kind import EncoderStage, Place
from harness.stages.flops import FORWARDS_A_STEP, training_images
from harness.stages.running.context import StageContext
from harness.stages.running.initial_weights import compare_headers
from harness.stages.running.optimisation import (
    arithmetic,
    backward,
    end_step,
    optimizer_settings,
    restore_optimizer,
    start_step,
)
from harness.stages.running.rounds import Rounds
from harness.stages.stage import Stage
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage
from harness.storage.artifacts import Artifact, embed, embedded, write_tensors
from models import checkpoint
from models.batch_part import add_terms, slices_of
from models.foundation import EncoderNetwork
from models.parameters import num_parameters
from models.posterior import AnyPosterior
from models.semantic import FeatureCodec, PrincipalComponents, SemVAE, as_tokens, semvae_loss
from models.tokenizer import TokenizerNetwork

ENCODER = "features"
"""Input of the stages, and folder of their artifacts, with the frozen network."""


class SemanticTokenizer(TokenizerNetwork):
    """Encodes features of images; what it decodes is features too."""

    def __init__(self, encoder: EncoderNetwork, codec: FeatureCodec, downsample: int) -> None:
        super().__init__()
        self.encoder, self.codec, self.downsample = encoder, codec, downsample

    def encode(self, images: Float[Tensor, "b 3 h w"], /) -> AnyPosterior:
        """The latent of the features on its own grid."""
        rows, columns = (side // self.downsample for side in images.shape[2:])
        return self.codec.encode(self.encoder.features(images, (rows, columns)))

    def decode(self, latent: Float[Tensor, "b c h_z w_z"], /) -> Float[Tensor, "b d h_z w_z"]:
        """Features of latents."""
        return self.codec.decode(latent)

    def compile_trunks(self) -> None:
        """Compile the frozen network."""
        self.encoder.compile_features()


def stage(trial: Trial) -> TokenizerStage:
    """Make the stage of a trial; ConfigError where given weights are of another size, or images are
    too small to be cut."""
    settings = _settings(trial.tokenizer)
    looks_to: EncoderStage = needs(trial)[ENCODER].config
    # As its own stage spells it out, so that the network can be built from this one alone.
    settings = replace(settings, encoder=looks_to.encoder)
    config = TokenizerStage(
        tokenizer=settings, data=trial.data, perceptual_weights="", **settings.describe()
    )
    if isinstance(settings, SemVAEConfig):
        _check(settings, looks_to, config)
    return config


def needs(trial: Trial) -> Mapping[str, Stage]:
    """The network of its features."""
    settings = _settings(trial.tokenizer)
    place = Place(
        role="semantic encoder",
        path="tokenizer.encoder",
        grid=trial.data.resolution // settings.downsample,
    )
    return {ENCODER: encoder.stage_of(settings.encoder, trial, place)}


def _check(settings: SemVAEConfig, looks_to: EncoderStage, config: TokenizerStage) -> None:
    side = config.data.resolution
    if settings.checkpoint is None:
        wanted = side // settings.downsample * encoder.stride_of(looks_to)
        if settings.fit == "centre" and wanted > side:
            raise ConfigError(
                f"must be resize where the network needs images of {wanted} pixels for the grid "
                f"and they have {side}, but is centre; set it",
                path="trial.tokenizer.fit",
            )
        return
    width = encoder.feature_dim_of(looks_to)
    compare_headers(settings, "tokenizer", lambda: _codec(settings, width), checkpoint.read_tensors)


def build(config: TokenizerStage) -> SemanticTokenizer:
    """Builds the network, both its halves with untrained weights."""
    settings = _settings(config.tokenizer)
    frozen = encoder.build_encoder(
        EncoderStage(encoder=settings.encoder, data=config.data, weights="")
    )
    return SemanticTokenizer(frozen, _codec(settings, frozen.feature_dim), settings.downsample)


def load(config: TokenizerStage, artifact: Artifact) -> SemanticTokenizer:
    """Builds the network with the weights of an artifact."""
    settings = _settings(config.tokenizer)
    frozen = encoder.load_encoder(embedded(artifact, ENCODER), torch.device("cpu"))
    codec = _codec(settings, frozen.feature_dim)
    codec.load_state_dict(artifact.tensors("model.safetensors"))
    return SemanticTokenizer(frozen, codec, settings.downsample)


def make_semvae(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop: AdamW on the loss of features and their reconstructions."""
    device, settings = context.device, config.tokenizer
    assert isinstance(settings, SemVAEConfig)
    training, seed = settings.training, settings.seed
    assert seed is not None
    if config.checkpoint:
        return _take(config, settings, context)

    # ---- networks and optimiser
    frozen = encoder.load_encoder(
        context.inputs[ENCODER], device, compiled=context.resources.compile
    )
    torch.manual_seed(derive_seed(seed, "semvae", "weights"))
    codec = SemVAE(
        feature_dim=frozen.feature_dim, latent_dim=settings.latent_dim, shape=settings.shape
    )
    codec.to(device).train()
    optimizer = torch.optim.AdamW(
        codec.parameters(), **optimizer_settings(training, fused=context.resources.fused_optimizer)
    )

    # ---- data: images as they are, as the released script extracts its features once
    dataset, pipeline = open_dataset(config.data, device), published(settings.crop)
    layout = settings.layout(config.data.resolution)
    grid, count = layout.shape[1:], training.batch_size
    own, parts = context.world.part(count), context.parts(count)
    order, images_in_all = derive_seed(seed, "semvae", "data"), dataset.num_images("train")

    def read(step: int) -> UInt8[Tensor, "b 3 h w"]:
        chosen = batch_indices(order, step, count, images_in_all, dataset.shuffle)[own]
        images = dataset.images("train", chosen, pipeline)
        return _centre(images, grid[0] * frozen.stride) if settings.fit == "centre" else images

    # ---- resumption
    curve, first = context.curve(training.steps), 0
    if resumed := context.resume():
        first, saved = resumed
        codec.load_state_dict(saved["model"])
        restore_optimizer(optimizer, saved["optimizer"])
    curve.rewind(first)

    def state() -> Mapping[str, Any]:
        curve.flush()
        return {"model": codec.state_dict(), "optimizer": optimizer.state_dict()}

    gradients = GradientSum(codec.parameters(), context.world, passes=len(parts))
    upcoming = range(first, training.steps)
    batches = context.ahead(read, upcoming)
    for step in upcoming:
        images = to_model_range(next(batches).to(device, non_blocking=True))
        # Drawn for the whole batch, so that any number of workers sees the same numbers.
        random = generator_for(seed, "semvae", step, device=device)
        noise = torch.randn((count, *layout.shape), generator=random, device=device)
        start_step(optimizer, training, step)
        summed: dict[str, Tensor] = {}
        for part in parts:
            features = frozen.features(images[part.start - own.start : part.stop - own.start], grid)
            with arithmetic(training.precision, device):
                posterior = codec.encode(features)
                found = codec.decode(posterior.sample(noise[part]))
            loss, terms = semvae_loss(settings.loss, features, found, posterior)
            # The loss is a mean over the batch: a slice counts by its share of the images.
            share = len(features) / count
            backward(share * loss, training)
            terms["loss"] = loss
            summed = add_terms(summed, {name: share * term for name, term in terms.items()})
        context.watch_gradient(step, end_step(optimizer, training, gradients))
        terms = context.world.sum_terms(summed)
        loss = terms.pop("loss")
        context.watch(step, loss)
        curve.note(step, terms)
        context.after_step(
            step + 1,
            training.steps,
            lambda loss=loss: {"loss": float(loss.detach())},
            state,
            images=count,
        )
    curve.publish()
    return {
        **_published(codec, context),
        "images": training.steps * count,
        **left_out(dataset, "train"),
    }


def _centre(images: UInt8[Tensor, "b 3 h w"], side: int) -> UInt8[Tensor, "b 3 s s"]:
    """The middle of images."""
    top, left = ((length - side) // 2 for length in images.shape[2:])
    return images[:, :, top : top + side, left : left + side]


def _take(
    config: TokenizerStage, settings: SemVAEConfig, context: StageContext
) -> Mapping[str, Any]:
    """The weights of a file in place of training; the settings say how they came to be."""
    assert settings.checkpoint is not None
    check_file(settings.checkpoint, config.checkpoint)
    frozen = encoder.load_encoder(context.inputs[ENCODER], torch.device("cpu"))
    codec, path = _codec(settings, frozen.feature_dim), Path(settings.checkpoint).expanduser()
    checkpoint.load_strictly(codec, checkpoint.read_tensors(path), source=str(path))
    return {
        **_published(codec, context),
        "images": training_images(settings.training),
        "checkpoint": f"{path.name}, {config.checkpoint}",
    }


@torch.no_grad()
def make_pca(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    """Mean and covariance of features of training images, and their largest directions."""
    device, settings = context.device, config.tokenizer
    assert isinstance(settings, PrincipalComponentsConfig)
    frozen = encoder.load_encoder(
        context.inputs[ENCODER], device, compiled=context.resources.compile
    )
    dataset, pipeline = open_dataset(config.data, device), published(settings.crop)
    grid = settings.layout(config.data.resolution).shape[1:]
    chosen = take(dataset, "train", min(settings.num_images, dataset.num_images("train")))
    rounds = Rounds(context, len(chosen), settings.batch_size)
    width = frozen.feature_dim
    zeros = {"sum": (width,), "products": (width, width), "count": ()}
    # In float64: a covariance is a small difference of large sums.
    total = {n: torch.zeros(s, dtype=torch.float64, device=device) for n, s in zeros.items()}
    for part in rounds.take_parts():
        _add(total, part)
    for turn in rounds:
        if len(turn.positions):
            images = to_model_range(
                dataset.images("train", chosen[turn.positions], pipeline).to(device)
            )
            for rows in slices_of(len(images), context.slices):
                tokens = as_tokens(frozen.features(images[rows], grid)).flatten(0, 1).double()
                found = {"sum": tokens.sum(0), "products": tokens.T @ tokens}
                _add(total, {**found, "count": torch.tensor(float(len(tokens)))})
        rounds.end(turn, lambda: total)
    others = context.world.gather({name: value.cpu() for name, value in total.items()})
    if not context.world.is_first:
        return {}
    total = {name: value.cpu() for name, value in total.items()}
    for other in others[1:]:
        _add(total, other)
    mean = total["sum"] / total["count"]
    covariance = total["products"] / total["count"] - mean.outer(mean)
    codec = PrincipalComponents(feature_dim=width, latent_dim=settings.latent_dim)
    codec.fit(mean, covariance)
    return {**_published(codec, context), "images": len(chosen), **left_out(dataset, "train")}


def _add(total: Mapping[str, Tensor], part: Mapping[str, Tensor]) -> None:
    for name, value in part.items():
        total[name].add_(value.to(total[name]))


def _published(codec: FeatureCodec, context: StageContext) -> dict[str, Any]:
    """Write the weights, those of the frozen network beside them."""
    write_tensors(context.work.payload / "model.safetensors", codec.state_dict())
    embed(context.inputs[ENCODER], context.work.payload / ENCODER)
    return {"parameters": num_parameters(codec)}


def _codec(settings: SemVAEConfig | PrincipalComponentsConfig, feature_dim: int) -> FeatureCodec:
    if isinstance(settings, PrincipalComponentsConfig):
        return PrincipalComponents(feature_dim=feature_dim, latent_dim=settings.latent_dim)
    return SemVAE(feature_dim=feature_dim, latent_dim=settings.latent_dim, shape=settings.shape)


def missing(config: TokenizerStage, path: str) -> list[MissingItem]:
    """The file that takes the place of a training."""
    settings = _settings(config.tokenizer)
    given = settings.checkpoint if isinstance(settings, SemVAEConfig) else None
    return missing_checkpoint("SemVAE's weights", given, f"{path}.checkpoint")


def trained_images(config: TokenizerStage) -> int:
    """Images that it is trained with, or measured on, here."""
    settings = _settings(config.tokenizer)
    if isinstance(settings, PrincipalComponentsConfig):
        return min(settings.num_images, config.data.num_train_images)
    return 0 if config.checkpoint else training_images(settings.training)


def training_flops(config: TokenizerStage, inputs: Mapping[str, Stage], forward: float) -> float:
    """One forward pass of the frozen network an image, and three of what is trained."""
    settings = _settings(config.tokenizer)
    cells = config.data.resolution // settings.downsample
    frozen = encoder.flops_per_image(inputs[ENCODER].config, cells)
    learnt = FORWARDS_A_STEP * (forward - frozen) if isinstance(settings, SemVAEConfig) else 0.0
    return trained_images(config) * (frozen + learnt)


def _settings(config: AnyTokenizerConfig) -> SemVAEConfig | PrincipalComponentsConfig:
    assert isinstance(config, SemVAEConfig | PrincipalComponentsConfig)
    return config


SEMVAE = TokenizerKind(
    stage=stage,
    build=build,
    make=make_semvae,
    load=load,
    missing=missing,
    needs=needs,
    trained_images=trained_images,
    training_flops=training_flops,
    built_from_files=True,
)
PCA = replace(SEMVAE, make=make_pca)
