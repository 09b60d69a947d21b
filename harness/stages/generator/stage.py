"""Stage `generator`: a network of any kind of generator, trained on encoded images."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import TypeAdapter
from torch import Tensor, nn

from harness.config.generator import GeneratorSettings
from harness.config.generator_settings import GeneratorBase
from harness.config.trial import Trial
from harness.config.weights import check_file, file_of
from harness.data.dataset import CONTENT, spread
from harness.data.latents.folder import LatentFolder
from harness.data.latents.training_set import LatentSet, Rows
from harness.data.stream import batch_indices
from harness.machine.gradients import GradientSum
from harness.machine.random_streams import derive_seed, generator_for
from harness.machine.sharding import shard, whole
from harness.schema.reading import ConfigError
from harness.stages import latents as latents_stage
from harness.stages.encoder import stage as encoder
from harness.stages.encoder.kind import EncoderStage, Place
from harness.stages.flops import ADAM_STATE, BYTES, FORWARDS_A_STEP
from harness.stages.generator.kind import GeneratorStage
from harness.stages.generator.kinds import kind_of
from harness.stages.generator.representation import StoredAlignment, TokenAlignment
from harness.stages.running.context import StageContext
from harness.stages.running.initial_weights import compare_headers, described, start_from
from harness.stages.running.optimisation import (
    arithmetic,
    backward,
    end_step,
    optimizer_settings,
    restore_optimizer,
    start_step,
)
from harness.stages.stage import Activations, Estimate, Stage, StageKind
from harness.storage.artifacts import Artifact, write_tensors
from models.batch_part import add_terms
from models.checkpoint import Weights, load_strictly, read_head
from models.compilation import recompute
from models.ema import Ema
from models.objectives.objective import rows_of
from models.parameters import num_parameters
from models.repa import HEAD, REPAHead, without_head
from models.rounding import round_weights


def stage_of(trial: Trial, settings: GeneratorBase, tokenizer: Stage) -> Stage:
    """The stage of a trial's generator, which learns from the latents of a tokenizer."""
    given = settings.describe()
    config = GeneratorStage(
        generator=settings.identity,
        layout=trial.layout,
        num_classes=trial.data.num_classes,
        checkpoint=given.get("checkpoint", ""),
        initial_weights=given.get("initial_weights", ""),
        latent_precision=trial.latents.precision if settings.reads_latents else "fp32",
        resolution=trial.data.resolution if settings.draws == "images" else 0,
    )
    try:
        kind_of(settings).check(config)
    except ConfigError as error:
        raise error.within(path="trial.generator") from error
    if not settings.reads_latents:
        return Stage(kind="generator", config=config, inputs={}, label=settings.label)
    inputs = {"latents": latents_stage.stage_of(trial, tokenizer)}
    parts = [part for part in (settings.label, settings.origin) if part]
    if (alignment := settings.token_alignment) is not None:
        parts.append(f"repa {alignment.weight:g} {alignment.encoder.name}")
    source = trial.latents.source
    stored = isinstance(source, LatentFolder) and source.features
    if config.learns_representations and not stored:
        assert alignment is not None
        config = replace(config, data=trial.data, crop=trial.latents.crop)
        token_side = kind_of(settings).token_side
        assert token_side is not None
        place = Place(
            role="representation encoder", path="generator.repa.encoder", grid=token_side(config)
        )
        inputs["representation"] = encoder.stage_of(alignment.encoder, trial, place)
    label = f"{' '.join(parts)} seed {settings.seed} on {tokenizer.label}"
    return Stage(kind="generator", config=config, inputs=inputs, label=label)


def up_to(training: Stage, step: int) -> Stage:
    """The stage of a training's first steps; the training goes on from its checkpoint."""
    config, label = replace(training.config, until=step), f"{training.label} to step {step}"
    return replace(training, config=config, label=label, whole=training)


def run(config: GeneratorStage, context: StageContext) -> Mapping[str, Any]:
    """One flat loop for every objective on latents and labels: AdamW, EMA of the weights."""
    device, kind = context.device, kind_of(config.generator)
    if kind.make is not None:
        return kind.make(config, context)
    settings = _trained(config)
    if config.checkpoint:
        return _take(config, context)
    training, seed = settings.training, settings.seed
    assert seed is not None

    # ---- networks, and the latents that they learn from
    latents = LatentSet(
        context.inputs["latents"],
        device,
        config.latent_precision,
        on_device=context.resources.latents_on_device,
    )
    torch.manual_seed(derive_seed(seed, "generator", "weights"))
    # What no device may hold whole is built on the host.
    model: Any = kind.build(config).to("cpu" if context.is_sharded else device).train()
    parameters = num_parameters(model)
    objective = kind.measure(kind.objective(config), latents)
    alignment = _token_alignment(config, context, model, latents)
    # A head that learns beside the generator; one within it is a part of its weights.
    beside = alignment.head if alignment else None
    if alignment and alignment.config.head == "within":
        model.add_module(HEAD, alignment.head.project)
        beside = None
    beginning = _start(config, model)
    # Samples are drawn from the moving average (published decay: 0.9999), never from `model`.
    ema = Ema(model, settings.ema)

    # ---- resumption
    curve = context.curve(training.steps)
    first = 0
    if resumed := context.resume(config.until or None):
        first, saved = resumed
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        if beside:
            beside.load_state_dict(saved["head"])
        largest = saved.get("largest_loss")
        curve.largest = None if largest is None else largest.to(device)
    curve.rewind(first)

    # ---- optimiser, and how the network is computed
    if context.resources.activation_checkpointing:
        recompute(_blocks(config, model))
    if context.resources.compile:
        kind.compile(model)
    if context.is_sharded:
        tapped_by = ["forward_with_tap"] if alignment else []
        for whole_network in (model, ema.module):
            # A head within is called by itself, so it is put together by itself.
            heads = [each for name, each in whole_network.named_children() if name == HEAD]
            blocks = [*_blocks(config, whole_network), *heads]
            shard(whole_network, blocks, device, context.world, tapped_by)
        if beside:
            shard(beside, [], device, context.world)
    trained = [p for p in model.parameters() if p.requires_grad]
    trained += beside.parameters() if beside else ()
    optimizer = torch.optim.AdamW(
        trained, **optimizer_settings(training, fused=context.resources.fused_optimizer)
    )
    if resumed:
        restore_optimizer(optimizer, resumed[1]["optimizer"])
    # Tokens of the network's last call, where they are aligned.
    tapped: list[Tensor] = []

    def network(*arguments: Tensor) -> Tensor:
        """The forward pass in the training's arithmetic."""
        with arithmetic(training.precision, device):
            if alignment is None:
                return model(*arguments)
            output, tokens = model.forward_with_tap(*arguments, alignment.config.block)
        tapped[:] = [tokens]
        return output

    count = training.batch_size
    own = context.world.part(count)

    def state() -> Mapping[str, Any]:
        curve.flush()
        return whole(
            {
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "head": beside.state_dict() if beside else {},
                "largest_loss": curve.largest,
            }
        )

    # ---- data, read ahead of its step where it does not lie on the device
    held_out = spread(settings.num_held_out, len(latents))
    learnt = np.setdiff1d(np.arange(len(latents)), held_out)

    def drawn(step: int) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        """Positions and views of a step's latents."""
        indices = learnt[batch_indices(seed, step, count, len(learnt))]
        # Either view of an image with equal probability, as the published data set draws it.
        views = np.random.default_rng([seed, step]).integers(len(latents.views), size=len(indices))
        return indices, views

    def read_images(step: int) -> Tensor:
        """Those, or their stored features, behind this worker's part of a step's latents."""
        assert alignment is not None
        indices, views = drawn(step)
        return alignment.images(indices[own], views[own])

    def read_latents(step: int) -> Rows:
        """This worker's part of a step's latents."""
        indices, views = drawn(step)
        return latents.read(indices[own], views[own])

    @torch.no_grad()
    def validation(step: int) -> Mapping[str, Tensor]:
        """The held-out batches' terms, of the same random numbers at every point of the curve."""
        summed: dict[str, Tensor] = {}
        if step % curve.every:
            return summed
        model.eval()
        # Classes may stand together in the set: each batch is spread over all of it.
        for number in range(settings.validation_batches):
            indices = held_out[number :: settings.validation_batches]
            views, asked = np.zeros_like(indices), latents.labels[torch.from_numpy(indices)]
            random = generator_for(seed, "validation", number, device=device)
            draws = objective.draw(asked.to(device), config.layout.shape, random, step)
            noise = latents.noise(seed, number, count)
            for part in parts:
                chosen = indices[part], views[part]
                clean, _ = latents.batch(*chosen, None if noise is None else noise[part])
                given = {**rows_of(draws, part), **latents.lower(*chosen)}
                found = objective.loss(network, clean, given)
                share = len(clean) / settings.num_held_out
                terms = {**found.terms, "loss": found.total}
                summed = add_terms(summed, {f"validation_{n}": share * t for n, t in terms.items()})
        model.train()
        return summed

    upcoming = range(first, config.steps)
    pictures = context.ahead(read_images, upcoming) if alignment else None
    stored = None if latents.is_resident else context.ahead(read_latents, upcoming)
    parts = context.parts(count)
    gradients = GradientSum(() if context.is_sharded else trained, context.world, passes=len(parts))
    for step in upcoming:
        # ---- data. All random numbers of the whole batch are functions of seed and step, so that
        # a resumed run, and any number of workers or slices, sees the same numbers.
        random = generator_for(seed, "generator", step, device=device)
        rows = read_latents(step) if stored is None else next(stored)
        posterior = latents.noise(seed, step, count, own)
        indices, views = drawn(step)
        labels = latents.labels[torch.from_numpy(indices)].to(device, non_blocking=True)
        draws = objective.draw(labels, config.layout.shape, random, step)
        images = next(pictures) if pictures else None
        lower = latents.lower(indices[own], views[own])

        # ---- forward and loss, a slice at a time where the device has no memory for the batch
        start_step(optimizer, training, step)
        summed: dict[str, Tensor] = {}
        held = validation(step)
        for part in parts:
            here = slice(part.start - own.start, part.stop - own.start)
            clean, _ = latents.finish(
                tuple(plane[here] for plane in rows), None if posterior is None else posterior[here]
            )
            features = None
            if alignment is not None and images is not None:
                features = alignment.features(images[here])
            given = {name: plane[here] for name, plane in lower.items()}
            found = objective.loss(network, clean, {**rows_of(draws, part), **given})
            loss, terms = found.total, dict(found.terms)
            if alignment is not None and features is not None:
                with arithmetic(training.precision, device):
                    terms["repa"] = alignment.head(tapped.pop(), features)
                loss = loss + alignment.config.weight * terms["repa"]
            # The loss is a mean over the batch: a slice counts by its share of the images.
            share = len(clean) / count
            backward(share * loss, training)
            terms["loss"] = loss
            summed = add_terms(summed, {name: share * term for name, term in terms.items()})

        # ---- step
        context.watch_gradient(step, end_step(optimizer, training, gradients))
        ema.update(model)

        # ---- bookkeeping
        terms = context.world.sum_terms({**held, **summed})
        loss = terms.pop("loss")
        context.watch(step, loss)
        curve.note(step, terms, loss)
        # A snapshot belongs to the payload, not to the checkpoints: it is a result of its own.
        if step + 1 in settings.snapshot_steps:
            averages = whole(ema.module.state_dict())
            if context.world.is_first:
                write_tensors(context.work.payload / snapshot_name(step + 1), averages)
        context.after_step(
            step + 1,
            config.steps,
            lambda loss=loss: {"loss": float(loss.detach())},
            state,
            images=training.batch_size,
            shared=context.is_sharded,
        )
    if config.until:
        context.leave(config.until, state)
        averages = whole(ema.module.state_dict())
        if context.world.is_first:
            write_tensors(context.work.payload / snapshot_name(config.until), averages)
    curve.publish()
    if context.world.is_first and not config.until:
        context.work.require_files(map(snapshot_name, settings.snapshot_steps))
    return {**_result(config, context, parameters), **beginning}


def _start(config: GeneratorStage, model: nn.Module) -> dict[str, Any]:
    """Take what fits of the file of initial weights, where there is one."""
    settings = _trained(config)
    if (given := file_of(settings.initial_weights, "generator")) is None:
        return {}
    path = Path(given).expanduser()
    weights = _read(config, path, entry=settings.checkpoint_entry)
    weights |= _given_head(settings, path)
    return start_from(model, weights, path, config.initial_weights)


def _take(config: GeneratorStage, context: StageContext) -> Mapping[str, Any]:
    """The averaged weights of a file in place of training; the settings say how they came to be."""
    settings, kind = _trained(config), kind_of(config.generator)
    assert settings.checkpoint is not None
    check_file(settings.checkpoint, config.checkpoint)
    model: Any = kind.build(config)
    parameters, path = num_parameters(model), Path(settings.checkpoint).expanduser()
    weights = _read(config, path, entry=settings.checkpoint_entry)
    if head := _given_head(settings, path):
        assert settings.token_alignment is not None
        size = {"width": model.token_width, "feature_dim": len(head[f"{HEAD}.4.weight"])}
        model.add_module(HEAD, REPAHead(settings.token_alignment, **size).project)
        weights |= head
        weights.left_out = tuple(name for name in weights.left_out if name not in head)
    load_strictly(model, weights, source=str(path))
    print(described(weights, path), file=sys.stderr)
    write_tensors(context.work.payload / snapshot_name(settings.training.steps), model.state_dict())
    source = f"{path.name}, {config.checkpoint}"
    return {**_result(config, context, parameters), "checkpoint": source}


def _read(
    config: GeneratorStage, path: Path, *, entry: str | None, headers: bool = False
) -> Weights:
    """Weights of a file for the network of a configuration."""
    kind = kind_of(config.generator)
    weights = kind.read_checkpoint(path, entry=entry, headers=headers)
    kind.complete(config, weights)
    return weights


def _given_head(settings: GeneratorSettings, path: Path) -> dict[str, Tensor]:
    """A file's projection, where the settings have it within the generator."""
    alignment = settings.token_alignment
    if alignment is None or alignment.head == "apart":
        return {}
    return read_head(path, entry=settings.checkpoint_entry)


def _result(config: GeneratorStage, context: StageContext, parameters: int) -> dict[str, Any]:
    encoded = context.inputs["latents"]
    return {
        "parameters": parameters,
        "images": _trained(config).images_at(config.steps),
        "mean": encoded.result["mean"],
        "std": encoded.result["std"],
        "label_counts": encoded.result["label_counts"],
        "layout": encoded.result["layout"],
        **{name: encoded.result[name] for name in CONTENT if name in encoded.result},
        "tokenizer_key": encoded.record["inputs"]["tokenizer"],
    }


def _token_alignment(
    config: GeneratorStage, context: StageContext, model: Any, latents: LatentSet
) -> TokenAlignment | StoredAlignment | None:
    alignment, seed = config.generator.token_alignment, config.generator.seed
    if alignment is None:
        return None
    assert seed is not None
    torch.manual_seed(derive_seed(seed, "generator", "representation"))
    if config.data is None:
        return StoredAlignment(alignment, model, latents, context.device)
    encoded = context.inputs["latents"]
    return TokenAlignment(
        alignment,
        model,
        context.inputs["representation"],
        device=context.device,
        data=config.data,
        crop=config.crop,
        views=latents.views,
        content=encoded.result.get("data_content"),
        compiled=context.resources.compile,
    )


def _trained(config: GeneratorStage) -> GeneratorSettings:
    assert isinstance(config.generator, GeneratorSettings), "what is made otherwise has a `make`"
    return config.generator


def _blocks(config: GeneratorStage, model: nn.Module) -> Sequence[nn.Module]:
    kind = kind_of(config.generator)
    if kind.blocks is None:
        raise ConfigError(
            f"activation_checkpointing and shard need the `blocks` of a generator's kind, but "
            f"{kind.name} has none; set them to false",
            path="resources.generator",
        )
    return kind.blocks(model)


def snapshot_name(step: int) -> str:
    """File of the averaged weights after `step` training steps."""
    return f"ema-step{step:09d}.safetensors"


def config_of(artifact: Artifact) -> GeneratorStage:
    """The configuration of a generator's artifact."""
    return TypeAdapter(GeneratorStage).validate_python(artifact.record["config"])


def load_generator(
    artifact: Artifact,
    step: int,
    device: torch.device,
    *,
    rounded: bool = False,
    compiled: bool = False,
) -> nn.Module:
    """The averaged weights after `step` training steps, in evaluation mode; `rounded`: for calls
    under bfloat16 autocast only."""
    config = config_of(artifact)
    kind = kind_of(config.generator)
    if kind.load is not None:
        model = kind.load(config, artifact)
    else:
        model = kind.build(config)
        model.load_state_dict(without_head(artifact.tensors(snapshot_name(step))))
    if rounded:
        round_weights(model)
    if compiled:
        kind.compile(model)
    return model.requires_grad_(False).eval().to(device)


def estimate(stage: Stage) -> Estimate:
    """The training, the encoder that its tokens are aligned with included."""
    config: GeneratorStage = stage.config
    parameters, _ = kind_of(config.generator).size(config)
    looks_to = stage.inputs["representation"].config if "representation" in stage.inputs else None
    parameters += _head_parameters(config, looks_to)
    return Estimate(
        flops=training_flops(config, looks_to),
        disk_bytes=BYTES * parameters * len(config.generator.snapshot_steps),
        parameters=parameters,
        images=0 if config.generator.is_given else _trained(config).images_at(config.steps),
        # The moving average is one more copy of the weights.
        state_bytes=(ADAM_STATE + 1) * BYTES * parameters,
        activations=lambda: _activations(config),
    )


def _activations(config: GeneratorStage) -> Activations | None:
    """Those of the network; what a token alignment adds is left out."""
    kept = kind_of(config.generator).kept
    if kept is None or config.generator.is_given:
        return None
    sliced, recomputed = kept(config)
    return Activations(_trained(config).training, sliced, recomputed=recomputed)


def _head_parameters(config: GeneratorStage, looks_to: EncoderStage | None) -> int:
    """Those of a projection within the generator, which its files hold."""
    alignment = config.generator.token_alignment
    if looks_to is None or alignment is None or alignment.head == "apart":
        return 0
    with torch.device("meta"):
        model: Any = kind_of(config.generator).build(config)
        size = {"width": model.token_width, "feature_dim": encoder.feature_dim_of(looks_to)}
        return num_parameters(REPAHead(alignment, **size))


def flops_per_image(config: GeneratorStage) -> float:
    """FLOPs of one evaluation of a generator for one image, without guidance."""
    return kind_of(config.generator).size(config)[1]


def training_flops(config: GeneratorStage, looks_to: EncoderStage | None) -> float:
    """FLOPs of training a generator here, the encoder that its tokens are aligned with included."""
    if config.generator.is_given:
        return 0.0
    kind = kind_of(config.generator)
    per_image = FORWARDS_A_STEP * kind.training_share(config) * flops_per_image(config)
    if looks_to is not None:
        token_side = kind.token_side
        assert token_side is not None
        per_image += encoder.flops_per_image(looks_to, token_side(config))
    return _trained(config).images_at(config.steps) * per_image


def check_given(stage: Stage) -> None:
    """Refuse files of weights that the network does not fit, by their headers alone."""
    config: GeneratorStage = stage.config
    kind = kind_of(config.generator)
    if kind.make is None:
        settings = _trained(config)
        compare_headers(settings, "generator", lambda: kind.build(config), partial(_read, config))


KIND = StageKind(
    version=2,
    run=run,
    estimate=estimate,
    check_given=check_given,
    missing=lambda config, path: config.generator.missing(path),
)
