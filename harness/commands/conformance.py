"""What every kind must keep to, ours and the user's own: small trials, run and looked at.

The trials are those of a sweep in which each kind is met first, with trainings cut to a few steps.
Every stage runs twice, once undisturbed and once stopped at its first checkpoint and resumed;
networks and data are looked at for what stages rely on.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.config.resources import Resources
from harness.config.sweep import Point, Sweep
from harness.config.training import TrainingConfig
from harness.data import DataConfig, open_dataset
from harness.data.pixel_range import to_model_range
from harness.execution.stage_run import run_stage
from harness.machine.random_streams import generator_for
from harness.metrics.extractors import ExtractionConfig
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema.imported import OWN, Target
from harness.schema.keys import content_hash
from harness.stages.encoder.stage import load_encoder, load_extractor
from harness.stages.generation import load_sampling
from harness.stages.stage import Stage
from harness.stages.tokenizer.stage import load_tokenizer
from harness.storage.artifacts import Store

STOP = "stop"
"""What a file of `harness.storage.stop_requests` says to stages that are to stop."""
STEPS = 4
"""Steps of a training: the first ends at a checkpoint, and some follow."""
TRAINED = ("encoder", "tokenizer", "generator")
"""Kinds of stages that train a network, unless its weights are given."""
BY_STEP = ("phases", "snapshots")
"""Fields that name steps of a whole training."""
TOLERANCE = 1e-4
"""How far a network's answer may depend on the images beside one, as a share of its largest."""
EVERY_STEP = Resources(checkpoint_every_s=1e-9)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """What must hold."""
    error: str = ""
    """How it does not; empty where it holds."""


def small_sweep(sweep: Sweep) -> Sweep:
    """The trials in which a class of configuration is met first, their trainings cut to `STEPS`.

    Of the user's own code, every configuration counts: what holds with one may not with another.
    """
    known: set[Any] = set()
    points: list[Point] = []
    for point in sweep.points:
        met = set(_met_in(point.trial))
        if not met <= known:
            known |= met
            points.append(replace(point, trial=_shortened(point.trial)))
    return replace(sweep, points=tuple(points))


def _met_in(value: Any) -> Iterator[type | str]:
    if is_dataclass(value):
        kind, value_of = type(value), {f.name: getattr(value, f.name) for f in fields(value)}
        yield kind
        if issubclass(kind, Target) or kind.__module__.partition(".")[0] not in OWN:
            yield content_hash({**value_of, "seed": None})
        value = value_of
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _met_in(each)


def _shortened(value: Any) -> Any:
    """A configuration whose trainings have few steps, and nothing that needs more."""
    if isinstance(value, tuple):
        return tuple(_shortened(each) for each in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    if isinstance(value, TrainingConfig):
        return replace(value, steps=STEPS, warmup_steps=0, constant_steps=0)
    changed = {f.name: _shortened(getattr(value, f.name)) for f in fields(value) if f.init}
    return replace(value, **changed | {name: () for name in BY_STEP if name in changed})


def findings(sweep: Sweep) -> Iterator[Finding]:
    """Run the trials of a small sweep and look at their parts, one by one."""
    plan = make_plan(sweep)
    data = sweep.points[0].trial.data
    graders = {row.extractor for row in plan.rows}
    for config in {content_hash(p.trial.data): p.trial.data for p in sweep.points}.values():
        yield from _of_data(config)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        undisturbed, resumed = (Store(Path(folder, name)) for name in ("whole", "resumed"))
        for stage in plan.stages:
            outcome = run_stage(stage, undisturbed.root, Resources(), 0.0)
            good = outcome.status in ("done", "reused")
            ran = _holds(f"{stage.kind}: {stage.label} runs", good, outcome.error)
            yield ran
            if ran.error:
                return
            if stage.kind == "tokenizer":
                yield from _of_tokenizer(stage, undisturbed, stage.config.data)
            if stage.kind == "generation":
                yield from _of_samples(stage, undisturbed)
            if stage.kind == "encoder":
                yield from _of_encoder(stage, undisturbed, data, grades=stage in graders)
            repeated = _repeats(stage, undisturbed, resumed)
            yield repeated
            # What reads a stage that came out otherwise comes out otherwise too.
            if repeated.error:
                return


def _repeats(stage: Stage, undisturbed: Store, store: Store) -> Finding:
    """Stop a stage at its first step, go on, and compare the artifacts' files.

    A stage that is one piece of work is not stopped, but made again.
    """
    stop = store.root / "stop"
    stop.parent.mkdir(parents=True, exist_ok=True)
    stop.write_text(STOP, encoding="utf-8")
    first = run_stage(stage, store.root, EVERY_STEP, 0.0, stop=stop)
    stop.unlink()
    is_resumed = first.status == "stopped"
    what = f"{stage.kind}: {'resumed from a checkpoint' if is_resumed else 'made again'}"
    what += " it gives the same bits"
    if first.error:
        return Finding(what=what, error=first.error)
    # Images of one batch are one round of work, after which nothing is left to resume.
    one_round = getattr(getattr(stage.config, stage.kind, None), "batch_size", 0)
    if not is_resumed and stage.kind in TRAINED and estimate(stage).images > one_round:
        return Finding(
            what=f"{stage.kind}: a training stops where it is asked to",
            error="it went on; call `context.after_step` after every step, with the state to save",
        )
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    if outcome.status not in ("done", "reused"):
        return Finding(what=what, error=outcome.error)
    ours, theirs = (each.get(stage.kind, stage.key) for each in (store, undisturbed))
    differing = [
        name
        for name, file in ours.record["files"].items()
        if theirs.record["files"].get(name) != file
    ]
    error = (
        f"{', '.join(differing) or 'its result'} differ: whatever a training changes must be "
        "in its checkpoint, and every random number a function of seed and step"
    )
    return _holds(what, not differing and ours.result == theirs.result, error)


def _of_data(config: DataConfig) -> Iterator[Finding]:
    dataset = open_dataset(config)
    chosen = np.arange(min(4, dataset.num_images("train")), dtype=np.int64)
    images = dataset.images("train", chosen)
    yield _same(
        "data set: an image is the same whenever it is read",
        images,
        dataset.images("train", chosen),
        "reading twice gave other pixels; augment in training only, and draw from the generator",
    )
    side = config.resolution
    shape = (len(chosen), 3, side, side)
    found = f"{tuple(images.shape)} {images.dtype}"
    fits = tuple(images.shape) == shape and images.dtype == torch.uint8
    yield _holds(f"data set: images are 8-bit [3, {side}, {side}]", fits, f"they are {found}")
    flat = (images == images[:, :, :1, :1]).all()
    error = "each of the first is of one colour; check how pixels are scaled"
    yield _holds("data set: images show something", not flat, error)
    whole, part = (
        dataset.augmented("train", chosen, np.random.default_rng(0), rows)
        for rows in (slice(None), slice(1, 3))
    )
    yield _same(
        "data set: a part of a batch is augmented as in the whole",
        whole[1:3],
        part,
        "other pixels came; draw for the whole batch and read the part",
    )


def _some_pixels(data: DataConfig) -> torch.Tensor:
    dataset = open_dataset(data)
    return dataset.images("eval", np.arange(min(4, dataset.num_images("eval")), dtype=np.int64))


def _of_encoder(stage: Stage, store: Store, data: DataConfig, *, grades: bool) -> Iterator[Finding]:
    """Look at what its place asks of it: pooled features where it grades, dense ones elsewhere."""
    artifact, pixels = store.get(stage.kind, stage.key), _some_pixels(data)

    def loaded() -> Callable[[torch.Tensor], torch.Tensor]:
        if grades:
            return load_extractor(artifact, torch.device("cpu"), ExtractionConfig()).features
        network = load_encoder(artifact, torch.device("cpu"))
        rows, columns = (max(1, side // network.stride) for side in network.input_size)
        return lambda pixels: network.features(to_model_range(pixels), (rows, columns))

    what, features = f"encoder: {stage.label}", loaded()
    found = features(pixels)
    error = "some are not; check its weights and `image_range`"
    yield _holds(f"{what}: features are finite numbers", found.isfinite().all(), error)
    differs, error = found.std(dim=0).max() > 0, "all are equal; check `image_range`"
    yield _holds(f"{what}: features differ between images", differs, error)
    random = "it draws random numbers or stays in training mode"
    yield _same(f"{what}: features are deterministic", found, features(pixels), random)
    again = loaded()(pixels)
    yield _same(f"{what}: loaded twice it is the same", found, again, "its weights differ")
    alone = torch.cat([features(each[None]) for each in pixels])
    beside = "batch normalisation in training mode?"
    yield _close(f"{what}: features depend on their own image alone", found, alone, beside)


def _of_tokenizer(stage: Stage, store: Store, data: DataConfig) -> Iterator[Finding]:
    artifact = store.get(stage.kind, stage.key)
    tokenizer = load_tokenizer(artifact, torch.device("cpu"))
    images = to_model_range(_some_pixels(data))
    with torch.no_grad():
        latent = tokenizer.encode(images).mode()
        again = tokenizer.encode(images).mode()
        alone = torch.cat([tokenizer.encode(image[None]).mode() for image in images])
        decoded = tokenizer.decode(latent)
        decoded_alone = torch.cat([tokenizer.decode(each[None]) for each in latent])
        reloaded = load_tokenizer(artifact, torch.device("cpu")).encode(images).mode()
    differs, error = latent.float().std(dim=0).max() > 0, "all are equal; it has collapsed"
    yield _holds("tokenizer: latents differ between images", differs, error)
    random = "it draws random numbers or stays in training mode"
    yield _same("tokenizer: encoding is deterministic", latent, again, random)
    yield _same("tokenizer: loaded twice it is the same", latent, reloaded, "its weights differ")
    beside = "batch normalisation in training mode?"
    yield _close("tokenizer: a latent depends on its own image alone", latent, alone, beside)
    yield _close("tokenizer: an image depends on its latent alone", decoded, decoded_alone, beside)


def _holds(what: str, holds: bool | torch.Tensor, error: str) -> Finding:
    return Finding(what=what, error="" if holds else error)


def _of_samples(stage: Stage, store: Store) -> Iterator[Finding]:
    inputs = {name: store.get(source.kind, source.key) for name, source in stage.inputs.items()}
    device, what = torch.device("cpu"), f"generator: {stage.label}"

    def drawn(seed: int) -> torch.Tensor:
        sampling = load_sampling(stage.config, inputs, device, Resources())
        labels = torch.arange(4) % sampling.generator.num_classes
        with torch.no_grad():
            return sampling.images(labels, generator_for(seed, "noise", 0, device=device))

    images = drawn(0)
    random = "it draws random numbers of its own; draw all from the generator that is given"
    yield _same(f"{what}: equal noise gives equal samples", images, drawn(0), random)
    alike = "the noise does not reach the samples" if torch.equal(images, drawn(1)) else ""
    yield Finding(what=f"{what}: other noise gives other samples", error=alike)


def _same(what: str, left: torch.Tensor, right: torch.Tensor, error: str) -> Finding:
    return _holds(what, torch.equal(left, right), error)


def _close(what: str, left: torch.Tensor, right: torch.Tensor, hint: str) -> Finding:
    apart = float((left - right).abs().max() / left.abs().max().clamp(min=1e-12))
    error = f"it moves by {apart:.1e} of the largest value with what lies beside it; {hint}"
    return _holds(what, not apart > TOLERANCE, error)


Tell = Callable[[str], None]


def check(sweep: Sweep, tell: Tell) -> bool:
    """Look at all of it, a line each; returns whether everything holds."""
    good = True
    for finding in findings(sweep):
        good = good and not finding.error
        tell(f"{'FAIL' if finding.error else 'ok  '}  {finding.what}")
        if finding.error:
            tell(f"      {finding.error}")
    return good
