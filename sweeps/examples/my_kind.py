"""A whole kind of one's own: a linear autoencoder of patches, trained here.

It validates, plans, trains, resumes, is costed and reported like the kinds of this program. A sweep
file takes it with `plugins: [my_kind]`; see own_kind.yaml.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.kinds import (
    TOKENIZERS,
    Artifact,
    BatchStream,
    PointPosterior,
    StageContext,
    TokenizerDefaults,
    TokenizerKind,
    TokenizerNetwork,
    TokenizerStage,
    TrainingConfig,
    Trial,
    derive_seed,
    open_dataset,
    to_model_range,
    write_tensors,
)


@dataclass(frozen=True, kw_only=True)
class LinearConfig(TokenizerDefaults):
    """The block of the sweep file, and what others ask of it beyond the defaults."""

    kind: Literal["linear"] = "linear"
    latent_dim: int
    downsample: int = 4
    training: TrainingConfig
    seed: int | None = None

    scaling, is_given, provenance, name = "statistics", False, "reconstruction", "linear"


class Linear(TokenizerNetwork):
    """One convolution each way, a patch at a time."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        side = config.downsample
        self.encoder = nn.Conv2d(3, config.latent_dim, side, stride=side)
        self.decoder = nn.ConvTranspose2d(config.latent_dim, 3, side, stride=side)

    def encode(self, images: Tensor, /) -> PointPosterior:
        return PointPosterior(mean=self.encoder(images))

    def decode(self, latent: Tensor, /) -> Tensor:
        return self.decoder(latent)


def stage(trial: Trial) -> TokenizerStage:
    return TokenizerStage(tokenizer=trial.tokenizer, data=trial.data, perceptual_weights="")


def make(config: TokenizerStage, context: StageContext) -> Mapping[str, Any]:
    settings, training = config.tokenizer, config.tokenizer.training
    torch.manual_seed(derive_seed(settings.seed, "linear", "weights"))
    model = Linear(settings).to(context.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    stream = BatchStream(
        dataset=open_dataset(config.data),
        split="train",
        batch_size=training.batch_size,
        seed=derive_seed(settings.seed, "linear", "data"),
        augment=True,
    )
    curve, first = context.curve(training.steps), 0
    if resumed := context.resume():
        first, saved = resumed
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    curve.rewind(first)

    def state() -> Mapping[str, Any]:
        curve.flush()
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    for step in range(first, training.steps):
        pixels, _ = stream.batch(step)
        images = to_model_range(pixels.to(context.device))
        loss = functional.mse_loss(model.decode(model.encode(images).mean), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        context.watch(step, loss)
        curve.note(step, {"mse": loss})
        shown = float(loss.detach())
        context.after_step(
            step + 1, training.steps, lambda shown=shown: {"mse": shown}, state, images=len(images)
        )
    curve.publish()
    write_tensors(context.work.payload / "model.safetensors", model.state_dict())
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "images": training.steps * training.batch_size}


def load(config: TokenizerStage, artifact: Artifact) -> Linear:
    model = Linear(config.tokenizer)
    model.load_state_dict(artifact.tensors("model.safetensors"))
    return model


def images(config: TokenizerStage) -> int:
    return config.tokenizer.training.steps * config.tokenizer.training.batch_size


TOKENIZERS.add(
    "linear",
    LinearConfig,
    TokenizerKind(
        stage=stage,
        build=lambda config: Linear(config.tokenizer),
        make=make,
        load=load,
        trained_images=images,
        training_flops=lambda config, _inputs, forward: 3 * forward * images(config),
    ),
)
