"""Rows of images that were not made here: what is read, what is computed, and the row.

Samples are held to the reference of a sweep's protocol, or to one of their own; reconstructions
are compared with their originals pair by pair. Results of one name gather rows: each call adds its
own, and the same images under the same protocol replace their earlier row.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.commands.exit_codes import EXIT_DONE, EXIT_ROWS_FAILED
from harness.commands.options import RunOptions
from harness.commands.planning import check_machine, check_networks
from harness.commands.run_stages import begin_start, execute
from harness.config.data import Crop, published
from harness.config.perceptual import describe_lpips
from harness.config.protocol_presets import generation_name, reconstruction_name
from harness.config.reference import ReferenceImages, ReferenceSource, StatisticsFile, TrainingSplit
from harness.config.sweep import Sweep, check_name
from harness.config.trial import Trial
from harness.data.image_sets import (
    DatasetImages,
    FolderImages,
    ImageSet,
    ImageSetConfig,
    NpzImages,
    needs_crop,
    open_image_set,
)
from harness.data.sample_archive import SampleArchive
from harness.execution.stage_run import Outcome
from harness.plan.plan import in_order, with_inputs
from harness.plan.requests import check_resources
from harness.reporting.closing_text import rows_text
from harness.results.columns import COLUMNS, SCHEMA_VERSION
from harness.results.folder import read_rows, write_given_row
from harness.results.protocol import (
    generation_protocol,
    made_elsewhere,
    protocol_columns,
    reconstruction_protocol,
)
from harness.results.rows import (
    describe_extractor,
    fits,
    generation_columns,
    making_columns,
    reconstruction_columns,
    sampling_columns,
)
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError, nearest, parse_yaml
from harness.stages import reference as reference_stage
from harness.stages.encoder import stage as encoder_stage
from harness.stages.encoder.kind import METRIC
from harness.stages.generation import GenerationStage
from harness.stages.given_pairs import GivenPairsStage, pairing
from harness.stages.given_samples import GivenSamplesStage, require_resolution
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store

_DESCRIBING = (
    "tokenizer", "downsample", "latent_dim", "alignment", "alignment_encoder", "vf_weight",
    "tokenizer_params", "tokenizer_images", "generator", "generator_size", "patch_size",
    "generator_params", "generator_images", "seed", "train_flops",
)  # fmt: skip
"""Columns that a caller may fill: what the images are of, never what they score."""


@dataclass(frozen=True, kw_only=True)
class GivenImages:
    """Images that a caller gives: their places, and the model that they are of."""

    name: str
    """Name of the row and of the results folder."""
    samples: str | None
    """Place of generated images."""
    reference: str | None
    """Place of what they are held to; absent: the sweep's reference."""
    reconstructions: str | None
    """Place of reconstructed images."""
    originals: str | None
    """Place of what they are reconstructions of."""
    columns: Sequence[str]
    """`NAME=VALUE` of describing columns."""
    as_declared: bool
    """The images were made as the sweep's evaluation says."""
    crop: Crop | None
    """How the images of folders are cropped to the size of the sweep's; absent: those that are
    given as `originals`, where their size is another, as the sweep says, and others not at all."""
    on_unreadable: Literal["stop", "skip"]
    """Whether an unreadable file is an error or is skipped."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The stages of one row, and the trial whose protocol it has."""

    trial: Trial
    extractor: Stage
    reference: Stage
    samples: Stage | None
    pairs: Stage | None

    @property
    def scored(self) -> list[Stage]:
        return [stage for stage in (self.samples, self.pairs) if stage is not None]


def evaluate_images(options: RunOptions, sweep: Sweep, given: GivenImages) -> int:
    """Score given images and write their row; returns the exit code."""
    started = time.monotonic()
    try:
        check_name(given.name)
    except ValueError as error:
        raise ConfigError(str(error), path="--name") from error
    described = _described(given.columns)
    try:
        request = _request(sweep, given)
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    store, results = Store(options.store), options.results / given.name
    if (results / "sweep.yaml").is_file():
        raise ConfigError(
            f"the results of given images need a folder of their own, but {results} holds those of "
            "a sweep; use another --name"
        )
    # Before anything is computed: the new row comes into one table with those that are there.
    read_rows(results)
    stages = in_order(with_inputs(request.scored))
    to_run = [stage for stage in stages if not store.find(stage.kind, stage.key)]
    check_networks(to_run, sweep.source)
    check_machine(options, to_run, sweep.file.resources, sweep.source)
    begin_start(options, to_run, results, sweep.source)
    outcomes = execute(options, to_run, store, sweep, lambda event: None)
    row = _row(request, given, described, store, outcomes)
    artifacts = [a for a in (store.find(s.kind, s.key) for s in stages) if a]
    rows = write_given_row(row, artifacts, results, time.monotonic() - started)
    skipped = [reason for a in artifacts for reason in a.result.get("skipped", [])]
    if options.json:
        print(json.dumps({"row": row, "skipped": skipped}, indent=1))
    else:
        print("\n".join([rows_text(rows, results), *(f"skipped: {text}" for text in skipped)]))
    return EXIT_DONE if row["status"] == "done" else EXIT_ROWS_FAILED


def _request(sweep: Sweep, given: GivenImages) -> _Request:
    _check(sweep, given)
    check_resources(sweep.file.resources)
    trial = sweep.points[0].trial
    if given.reference is not None:
        source = _reference(given.reference, trial, given)
        trial = replace(trial, evaluation=replace(trial.evaluation, reference=source))
    extractor = encoder_stage.stage_of(trial.evaluation.extractor, trial, METRIC)
    reference = reference_stage.stage_of(trial, extractor)
    return _Request(
        trial=trial,
        extractor=extractor,
        reference=reference,
        samples=_samples(given, trial, extractor, reference) if given.samples else None,
        pairs=_pairs(given, trial, extractor) if given.reconstructions else None,
    )


def _check(sweep: Sweep, given: GivenImages) -> None:
    if given.samples is None and given.reconstructions is None:
        raise ConfigError("nothing to score; give --samples, --reconstructions or both")
    if (given.reconstructions is None) != (given.originals is None):
        raise ConfigError("--reconstructions and --originals go together; give both")
    if given.reference is not None and given.samples is None:
        raise ConfigError("--reference is what samples are held to; give --samples too")
    first, *others = (point.trial for point in sweep.points)
    own = "train" if isinstance(first.evaluation.reference, TrainingSplit) else None
    if given.samples and given.samples == (given.reference or own):
        raise ConfigError(
            f"must be other images than those that they are held to, but {given.samples!r} is both",
            path="--samples",
        )
    for other in others:
        evaluation = replace(other.evaluation, seed=first.evaluation.seed)
        if (other.data, evaluation) != (first.data, first.evaluation):
            raise ConfigError(
                "the sweep's trials have unlike data or evaluation, so its protocol is not one; "
                "fix the axis with --set grid.AXIS='[VALUE]'",
                source=sweep.source,
            )
    if given.as_declared and given.originals not in (None, "eval"):
        raise ConfigError(
            "--as-declared says that reconstructions are of the sweep's evaluation images, so "
            f"these must be the originals, but got {given.originals!r}; give --originals eval"
        )
    if given.as_declared and given.samples and len(first.evaluation.guidance) > 1:
        raise ConfigError(
            "--as-declared needs one guidance setting, but the sweep file has several; name the "
            "samples' with --set evaluation.guidance='[...]'",
            source=sweep.source,
        )


def _samples(given: GivenImages, trial: Trial, extractor: Stage, reference: Stage) -> Stage:
    assert given.samples is not None
    images = _images(given.samples, "--samples", trial, given)
    config = GivenSamplesStage(
        samples=images,
        content=_opened(images, trial).fingerprint(),
        resolution=trial.data.resolution,
        batch_size=trial.evaluation.batch_size,
        extraction=trial.evaluation.extraction,
    )
    if reference.config.content == f"images {config.content}":
        raise ConfigError(
            "must be other images than those that they are held to, but both are the same; give "
            "other samples or another --reference",
            path="--samples",
        )
    inputs = {"extractor": extractor, "reference": reference}
    return Stage(kind="given_samples", config=config, inputs=inputs, label=given.samples)


def _pairs(given: GivenImages, trial: Trial, extractor: Stage) -> Stage:
    assert given.reconstructions is not None
    assert given.originals is not None
    reconstructions = _images(given.reconstructions, "--reconstructions", trial, given)
    originals = _images(given.originals, "--originals", trial, given)
    evaluation = trial.evaluation
    made, held = (_opened(images, trial) for images in (reconstructions, originals))
    pairing(made, held)
    config = GivenPairsStage(
        reconstructions=reconstructions,
        originals=originals,
        content=(made.fingerprint(), held.fingerprint()),
        resolution=trial.data.resolution,
        perceptual=evaluation.perceptual,
        perceptual_weights=describe_lpips(evaluation.perceptual),
        batch_size=evaluation.batch_size,
        extraction=evaluation.extraction,
    )
    label = f"{given.reconstructions} of {given.originals}"
    return Stage(kind="given_pairs", config=config, inputs={"extractor": extractor}, label=label)


def _images(place: str, option: str, trial: Trial, given: GivenImages) -> ImageSetConfig:
    """The images at a place, or a split of the sweep's data set."""
    if place in ("train", "eval"):
        evaluation = trial.evaluation
        crop = evaluation.reconstruction_crop if place == "eval" else evaluation.reference_crop
        return DatasetImages(data=trial.data, split=place, pipeline=published(crop))
    path = Path(place).expanduser()
    if path.is_dir():
        skips = given.on_unreadable
        images = FolderImages(path=place, on_unreadable=skips, others=skips)
        crop = given.crop
        # Originals as a data set has them, of many sizes; what was made has the sweep's size.
        if crop is None and option == "--originals" and needs_crop(images, trial.data.resolution):
            crop = trial.evaluation.reconstruction_crop
        if crop is None:
            return images
        pipeline = published(crop) or "opencv_crop"
        return replace(images, pipeline=pipeline, resolution=trial.data.resolution)
    if path.is_file() and path.suffix == ".npz":
        return NpzImages(path=place)
    raise ConfigError(
        f"must be a folder of images, an .npz with `arr_0`, `train` or `eval`, but {place!r} is "
        "none of them; correct the path",
        path=option,
    )


def _reference(place: str, trial: Trial, given: GivenImages) -> ReferenceSource:
    path = Path(place).expanduser()
    if path.is_file() and _holds_statistics(path):
        known = trial.evaluation.reference
        count = known.num_images if isinstance(known, StatisticsFile) else None
        return StatisticsFile(path=place, num_images=count)
    return ReferenceImages(images=_images(place, "--reference", trial, given))


def _holds_statistics(path: Path) -> bool:
    """Whether a file holds moments; an .npz may hold images alone."""
    if path.suffix != ".npz":
        return path.suffix in (".pt", ".safetensors")
    try:
        return "mu" in SampleArchive(path).names
    except ValueError as error:
        raise ConfigError(str(error), path="--reference") from error


def _opened(images: ImageSetConfig, trial: Trial) -> ImageSet:
    """The images, if they have the size of the sweep's."""
    opened = open_image_set(images)
    require_resolution(opened.images(np.array([0])), opened.name, trial.data.resolution)
    return opened


def _described(columns: Iterable[str]) -> dict[str, Any]:
    """The describing columns that a caller fills, checked against the table's types."""
    values: dict[str, Any] = {}
    for text in columns:
        name, separator, value = text.partition("=")
        if not separator or name not in _DESCRIBING:
            raise ConfigError(
                f"must be NAME=VALUE with a describing column, but got {text!r}"
                f"{nearest(name, _DESCRIBING)} (valid: {', '.join(_DESCRIBING)})",
                path="--column",
            )
        values[name] = _typed(name, value)
    return values


def _typed(name: str, text: str) -> Any:
    column = COLUMNS[name]
    try:
        value = text if column.type == "text" else parse_yaml(text)
    except ConfigError as error:
        raise error.within(path=f"--column {name}") from error
    if value is None or not fits(column, value):
        wanted = {"text": "text", "count": "a whole number of at most 18 digits"}
        must = wanted.get(column.type, "a finite number")
        raise ConfigError(f"must be {must}, but got {text!r}", path=f"--column {name}")
    return float(value) if column.type == "number" else value


def _row(
    request: _Request,
    given: GivenImages,
    described: Mapping[str, Any],
    store: Store,
    outcomes: Mapping[str, Outcome],
) -> dict[str, Any]:
    trial = request.trial
    declared, seed = trial.evaluation if given.as_declared else None, described.get("seed", 0)
    identity = content_hash([[stage.key for stage in request.scored], described, declared])
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {
        "row_id": identity[:16],
        "trial_id": identity[:12],
        "sweep": given.name,
        "dataset": trial.data.name,
        "resolution": trial.data.resolution,
        "tokenizer": given.name,
        "generator": given.name if request.samples else None,
        "tokenizer_key": request.pairs.key if request.pairs else None,
        "generator_key": request.samples.key if request.samples else None,
        # Nobody knows their seeds; images given twice are told apart by `--column seed=1`.
        **dict.fromkeys(("seed", "tokenizer_seed", "generator_seed", "evaluation_seed"), seed),
        "provenance": "given",
        "schema_version": SCHEMA_VERSION,
        **described,
    }
    ended = [outcomes[s.key] for s in with_inputs(request.scored) if s.key in outcomes]
    bad = [outcome for outcome in ended if outcome.status not in ("done", "reused")]
    if bad:
        return values | {"status": "failed", "error": bad[0].error}
    extractor = store.get("encoder", request.extractor.key)
    values |= {"status": "done", **describe_extractor(request.extractor.config, extractor)}
    if request.pairs:
        values |= _pairs_columns(request, given, store, extractor)
    read = [*request.scored, *([request.reference] if request.samples else [])]
    results = [store.get(stage.kind, stage.key).result for stage in read]
    values["num_skipped"] = sum(len(result.get("skipped", [])) for result in results)
    deficient = values["rank_deficient"]
    if request.samples:
        values |= _samples_columns(request, given, store, extractor)
    if deficient == "yes":
        values["rank_deficient"] = deficient
    return values


def _pairs_columns(
    request: _Request, given: GivenImages, store: Store, extractor: Artifact
) -> dict[str, Any]:
    assert request.pairs is not None
    result = store.get("given_pairs", request.pairs.key).result
    config = replace(ReconstructionStage.of(request.trial), num_images=result["num_images"])
    protocol = reconstruction_protocol(config, request.extractor.config, extractor)
    columns, name = reconstruction_columns(result), ""
    if given.as_declared:
        # SSIM and LPIPS of a sweep see unrounded images, which nobody has any more.
        columns |= {"ssim": None, "lpips": None}
        name = reconstruction_name(
            request.trial,
            num_images=config.num_images,
            perceptual_weights=config.perceptual_weights,
        )
    else:
        protocol = made_elsewhere(protocol, content_hash(request.pairs.config.content))
    return columns | protocol_columns(protocol, "reconstruction_protocol", name)


def _samples_columns(
    request: _Request, given: GivenImages, store: Store, extractor: Artifact
) -> dict[str, Any]:
    assert request.samples is not None
    artifact = store.get("given_samples", request.samples.key)
    evaluation = request.trial.evaluation
    guidance, name = evaluation.guidance[0], ""
    asked = GenerationStage.of(request.trial, step=0, guidance=guidance, weak_step=None)
    config = replace(asked, num_images=artifact.result["num_images"])
    networks = request.extractor.config, extractor
    protocol = generation_protocol(config, request.reference.config, *networks)
    values = generation_columns([artifact.result]) | making_columns([artifact])
    values["generation_key"] = request.samples.key
    if given.as_declared:
        values |= sampling_columns(request.trial, guidance)
        if config.num_images == evaluation.num_images:
            name = generation_name(request.trial, guidance)
    else:
        protocol = made_elsewhere(protocol, request.samples.config.content)
        values["guidance"] = "unknown"
    return values | protocol_columns(protocol, "protocol", name)
