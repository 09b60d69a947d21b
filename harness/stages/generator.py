"""Stage `generator`: a LightningDiT trained on encoded images by flow matching."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn

from harness.data.stream import batch_indices
from harness.latent_set import LatentSet
from harness.random_streams import derive_seed, generator_for
from harness.stages.context import StageContext
from harness.stages.curves import Curve
from harness.store import Artifact, write_tensors
from harness.training import autocast, backward_and_step, optimizer_settings
from harness.trial import GeneratorConfig, Trial
from models.ema import Ema
from models.flow import flow_loss, flow_total, interpolate, sample_time, velocity_target
from models.latent import LatentLayout
from models.lightningdit import LightningDiT, drop_labels, num_parameters

VERSION = 1
"""Raised by hand when the numbers that this stage makes change."""


@dataclass(frozen=True, kw_only=True)
class GeneratorStage:
    """What the stage reads, beside the latents."""

    generator: GeneratorConfig
    layout: LatentLayout
    num_classes: int

    @classmethod
    def of(cls, trial: Trial) -> "GeneratorStage":
        """A trial's generator."""
        return cls(
            generator=trial.generator, layout=trial.layout, num_classes=trial.data.num_classes
        )

    def build(self) -> LightningDiT:
        """The untrained network."""
        return LightningDiT(self.generator, layout=self.layout, num_classes=self.num_classes)


def run(config: GeneratorStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop: velocity regression on the linear path, AdamW, EMA of the weights."""
    device, settings = context.device, config.generator
    training, seed = settings.training, settings.seed
    assert seed is not None
    encoded = context.inputs["latents"]
    latents = LatentSet(encoded, device)
    torch.manual_seed(derive_seed(seed, "generator", "weights"))
    model = config.build().to(device).train()
    ema = Ema(model, settings.ema)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, **optimizer_settings(training))
    network: nn.Module = torch.compile(model) if context.compile else model  # type: ignore[assignment]
    curve = Curve(context.work, every=max(1, training.steps // 200))
    first = 0
    if resumed := context.resume():
        first, saved = resumed
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
    curve.rewind(first)

    def state() -> Mapping[str, Any]:
        curve.flush()
        return {
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    for step in range(first, training.steps):
        random = generator_for(seed, "generator", step, device=device)
        indices = batch_indices(seed, step, training.batch_size, len(latents))
        views = np.random.default_rng([seed, step]).integers(len(latents.views), size=len(indices))
        clean, labels = latents.batch(indices, views)
        labels = drop_labels(labels, config.num_classes, settings.class_dropout, random)
        noise = torch.randn(clean.shape, generator=random, device=device)
        time = sample_time(settings.flow, len(clean), config.layout.num_groups, random, step)
        with autocast(training, device):
            predicted = network(interpolate(clean, noise, time, config.layout), time, labels)
        terms = flow_loss(predicted.float(), velocity_target(clean, noise))
        loss = flow_total(settings.flow, terms)
        backward_and_step(loss, optimizer, training, step)
        ema.update(model)
        context.watch(step, loss)
        curve.note(step, terms)
        if step + 1 in settings.snapshot_steps:
            path = context.work.payload / f"ema-step{step + 1:09d}.safetensors"
            write_tensors(path, ema.module.state_dict())
        context.after_step(
            step + 1,
            training.steps,
            lambda loss=loss: {"loss": float(loss.detach())},
            state,
            images=training.batch_size,
        )
    curve.publish()
    return {
        "parameters": num_parameters(model),
        "images": training.steps * training.batch_size,
        "mean": encoded.result["mean"],
        "std": encoded.result["std"],
        "label_counts": encoded.result["label_counts"],
        "layout": encoded.result["layout"],
        "data_fingerprint": encoded.result["data_fingerprint"],
        "tokenizer_key": encoded.record["inputs"]["tokenizer"],
    }


def load_generator(artifact: Artifact, step: int, device: torch.device) -> LightningDiT:
    """The averaged weights after `step` training steps, in evaluation mode."""
    config: GeneratorStage = TypeAdapter(GeneratorStage).validate_python(artifact.record["config"])
    model = config.build()
    model.load_state_dict(artifact.tensors(f"ema-step{step:09d}.safetensors"))
    return model.requires_grad_(False).eval().to(device)
