"""The results table: one atomic JSON file a row, compiled to parquet and CSV."""

import datetime
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.config.evaluation import Guidance
from harness.config.protocol_presets import generation_name, reconstruction_name
from harness.config.sweep import Sweep
from harness.config.trial import Trial
from harness.config.weights import Provenance, weaker
from harness.execution.stage_run import Outcome
from harness.plan.plan import PlannedRow, with_inputs
from harness.results.columns import (
    COLUMNS,
    SCHEMA_VERSION,
    Column,
    ColumnType,
    MeasuredOn,
    axis_column,
    with_axes,
)
from harness.results.protocol import (
    drawn_by_itself,
    generation_protocol,
    protocol_columns,
    reconstruction_protocol,
)
from harness.stages.encoder.kind import EncoderStage
from harness.stages.generation import RATE, guidance_label, price
from harness.stages.generator.stage import flops_per_image
from harness.stages.stage import Stage
from harness.stages.tokenizer.kind import measured_stage
from harness.storage.artifacts import Artifact, Store
from harness.storage.durable import replacing, storage_errors, write_json
from models.latent import IndexLayout

Found = Mapping[str, Artifact]
"""Key of a stage -> its artifact, of the stages of one row whose artifacts are there."""


def make_row(
    row: PlannedRow, sweep: Sweep, store: Store, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """One line of the table, from the artifacts that are there.

    A row whose stages have not all ended well has a status and an error and no metrics of what
    is missing.
    """
    stages = (*row.stages, *row.tokenizer.inputs.values(), *_measured(row).inputs.values())
    artifacts = {stage.key: store.find(stage.kind, stage.key) for stage in stages}
    found = {key: artifact for key, artifact in artifacts.items() if artifact}
    columns = with_axes(sweep.axes)
    values: dict[str, Any] = dict.fromkeys(columns)
    values |= _axes(row, sweep) | _configuration(row, sweep) | _status(row, found, outcomes)
    values |= _tokenizer(row, found) | _generator(row, found)
    values |= _reconstruction(row, found) | _generation(row, found)
    if row.diagnostics and row.diagnostics.key in found:
        values |= metrics_of(found[row.diagnostics.key].result, "latents")
    values["slices"] = _slices(row, found)
    assert list(values) == list(columns), "a row has exactly the table's columns"
    return values


def write_row(values: Mapping[str, Any], results: Path) -> Path:
    """Write one row's file."""
    path = results / "rows" / f"{values['row_id']}.json"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return path


def fits(column: Column, value: Any) -> bool:
    """Whether the table can hold a value in a column; None is an empty cell."""
    if column.type == "text" and isinstance(value, str):
        # Surrogates, which stand for bytes that are no UTF-8, cannot be written as it.
        return value.encode(errors="ignore").decode() == value
    if isinstance(value, int) and not isinstance(value, bool):
        return column.type != "text" and abs(value) < 2**63
    is_number = column.type == "number" and isinstance(value, float) and math.isfinite(value)
    return value is None or is_number


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table that is whole or absent, without its index.

    A text that a spreadsheet would compute, as `=1+1`, has an apostrophe before it.
    """
    formula = re.compile(r"[=+\-@\t\r]")
    texts = frame.select_dtypes(["object", "string"])
    safe = texts.map(lambda v: f"'{v}" if isinstance(v, str) and formula.match(v) else v)
    with replacing(path) as temporary:
        frame.assign(**{str(name): safe[name] for name in safe}).to_csv(temporary, index=False)


_ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "count": pa.int64(),
    "number": pa.float64(),
}


def compile_table(
    rows: Sequence[Mapping[str, Any]], results: Path, columns: Mapping[str, Column] = COLUMNS
) -> None:
    """Write `table.parquet` (with what is known of each column in its schema) and `table.csv`.

    Args:
        rows: Values by column; a column that a row lacks is empty there.
        columns: The table's columns; a column has its type even where no row has a value.
    """
    schema = pa.schema(
        [
            pa.field(name, _ARROW_TYPES[column.type], metadata=column.metadata())
            for name, column in columns.items()
        ]
    )
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    with replacing(results / "table.parquet") as path:
        pq.write_table(table, path)
    # Without the mapper a count that is missing somewhere would be written as 3.0.
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    write_csv(results / "table.csv", frame)


def _axes(row: PlannedRow, sweep: Sweep) -> dict[str, Any]:
    """What the sweep varies; a trial that two sweeps share has other axes in each."""
    return {
        axis_column(axis.name): axis.held(row.axes[axis.name])
        for axis in sweep.axes
        if axis.name in row.axes
    }


def _configuration(row: PlannedRow, sweep: Sweep) -> dict[str, Any]:
    trial, tokenizer = row.trial, row.trial.tokenizer
    values: dict[str, Any] = {
        "row_id": row.row_id,
        "trial_id": row.trial_id,
        "sweep": sweep.file.name,
        "dataset": trial.data.name,
        "resolution": trial.data.resolution,
        "tokenizer": tokenizer.name,
        "downsample": tokenizer.downsample,
        "latent_dim": tokenizer.latent_dim,
        "seed": trial.seed,
        "tokenizer_seed": tokenizer.seed,
        "evaluation_seed": trial.evaluation.seed,
        "tokenizer_key": row.tokenizer.key,
        "provenance": tokenizer.provenance,
        "schema_version": SCHEMA_VERSION,
    }
    values |= tokenizer.columns
    return values | _sampled_configuration(row)


def _sampled_configuration(row: PlannedRow) -> dict[str, Any]:
    generator, sampled = row.trial.generator, row.generator
    if generator is None or sampled is None:
        return {}
    weak = sampled.generations[0].inputs.get("weak")
    sources: list[Provenance] = [row.trial.tokenizer.provenance, generator.provenance]
    if weak is not None:
        sources.append(weak.config.generator.provenance)
    return {
        **generator.columns,
        "generator_seed": generator.seed,
        "generator_images": generator.images_at(sampled.step),
        **sampling_columns(row.trial, sampled.guidance),
        "provenance": weaker(*sources),
        # 0 of what is not ours to count.
        "generator_flops_per_image": flops_per_image(sampled.training.config) or None,
        **price(sampled.generations[0]),
        "generator_key": sampled.training.key,
        "generation_key": sampled.generations[0].key,
    }


def sampling_columns(trial: Trial, guidance: Guidance) -> dict[str, Any]:
    """How samples of a trial were drawn."""
    scale = 1.0 if guidance.kind == "none" else guidance.scale
    return {
        "guidance": guidance_label(guidance),
        "guidance_kind": guidance.kind,
        "guidance_scale": None if isinstance(scale, dict) else scale,
        "label_policy": trial.evaluation.label_policy,
    }


def _status(row: PlannedRow, found: Found, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    # Samples keep what came of the reference, so a row does not lack one that is gone.
    needed = [stage for stage in row.stages if stage.kind != "reference"]
    if all(stage.key in found for stage in needed):
        return {"status": "done"}
    ended = [outcomes[s.key] for s in with_inputs(row.stages) if s.key in outcomes]
    bad = [o for o in ended if o.status in ("failed", "diverged", "blocked")]
    worst = min(bad, key=lambda o: ("diverged", "failed", "blocked").index(o.status), default=None)
    if worst is None:
        return {"status": "pending"}
    own = {stage.key for stage in needed} - {row.extractor.key, row.tokenizer.key}
    status = worst.status if worst.key in own or worst.status == "blocked" else "blocked"
    return {"status": status, "error": worst.error, "failure_kind": worst.failure or None}


def _tokenizer(row: PlannedRow, found: Found) -> dict[str, Any]:
    tokenizer, inputs = found.get(row.tokenizer.key), _measured(row).inputs
    aligner = inputs.get("encoder") or inputs.get("teacher")
    if tokenizer is None:
        return {}
    values = {
        "tokenizer_params": tokenizer.result["parameters"],
        "tokenizer_images": tokenizer.result["images"],
        "feature_cosine": tokenizer.result.get("feature_cosine"),
    }
    if aligner and aligner.key in found:
        values["alignment_encoder_accuracy"] = found[aligner.key].result.get("eval_accuracy")
    if costs := _tokenizer_costs(row, found):
        values["tokenizer_s"] = sum(cost["wall_s"] for cost in costs)
        values["train_flops"] = sum(cost["estimated_flops"] for cost in costs)
    return values


def _measured(row: PlannedRow) -> Stage:
    """The tokenizer whose reconstructions the row shows: its own, or a part of it."""
    return measured_stage(row.tokenizer)


def _tokenizer_costs(row: PlannedRow, found: Found) -> list[Mapping[str, Any]]:
    """What a tokenizer and its parts have cost; nothing where one was not trained here."""
    parts = [stage for stage in row.tokenizer.inputs.values() if stage.kind == "tokenizer"]
    made = [found[stage.key] for stage in (row.tokenizer, *parts) if stage.key in found]
    complete = len(made) == 1 + len(parts) and all(map(_was_trained, made))
    return [artifact.record["cost"] for artifact in made] if complete else []


def _generator(row: PlannedRow, found: Found) -> dict[str, Any]:
    trained, sampled = row.trial.generator, row.generator
    if trained is None or sampled is None:
        return {}
    generator = found.get(sampled.training.key)
    if generator is None:
        return {"train_flops": None}
    # A snapshot has cost its share of the whole training.
    share = sampled.step / max(1, sampled.training.config.steps)
    values: dict[str, Any] = {
        "generator_params": generator.result["parameters"],
        "device": generator.record["environment"]["device"],
        "train_flops": None,
    }
    if _was_trained(generator):
        values["generator_s"] = share * generator.record["cost"]["wall_s"]
    costs = _tokenizer_costs(row, found)
    if costs and _was_trained(generator):
        flops = sum(cost["estimated_flops"] for cost in costs)
        values["train_flops"] = flops + share * generator.record["cost"]["estimated_flops"]
    return values


def _reconstruction(row: PlannedRow, found: Found) -> dict[str, Any]:
    network, extractor = row.extractor.config, found.get(row.extractor.key)
    if extractor is None:
        return {}
    values = describe_extractor(network, extractor)
    if row.reconstruction is None or row.reconstruction.key not in found:
        return values
    config, reconstruction = row.reconstruction.config, found[row.reconstruction.key]
    protocol = reconstruction_protocol(config, network, extractor)
    name = reconstruction_name(
        row.trial, num_images=config.num_images, perceptual_weights=config.perceptual_weights
    )
    columns = reconstruction_columns(reconstruction.result)
    return values | columns | protocol_columns(protocol, "reconstruction_protocol", name)


def reconstruction_columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a tokenizer from the result of its stage."""
    return {
        **metrics_of(result, "reconstructions"),
        "num_reconstructions": result["num_images"],
        "codebook_usage_by_scale": result.get("codebook_usage_by_scale"),
        "rank_deficient": "yes" if result["rank_deficient"] else "no",
    }


def _generation(row: PlannedRow, found: Found) -> dict[str, Any]:
    sampled, extractor = row.generator, found.get(row.extractor.key)
    if sampled is None or extractor is None:
        return {}
    read = (*sampled.generations, *sampled.scores)
    if any(stage.key not in found for stage in read):
        return {}
    made, scored = ([found[s.key] for s in part] for part in (sampled.generations, sampled.scores))
    results = [artifact.result for artifact in made]
    if scored:
        results = [{**a, **own.result} for a, own in zip(results, scored, strict=True)]
    first = sampled.generations[0].config
    protocol = generation_protocol(first, sampled.reference.config, row.extractor.config, extractor)
    values = generation_columns(results) | making_columns([*made, *scored])
    # Earlier artifacts lack it.
    rates = [artifact.record["cost"].get(RATE) for artifact in made]
    rate = None if None in rates else statistics.fmean(rates)
    layout = row.trial.layout
    codes = layout.shape[0] if isinstance(layout, IndexLayout) else None
    values["sample_images_per_s"] = rate
    values["sample_tokens_per_s"] = rate and codes and rate * codes
    reconstruction = found.get(row.reconstruction.key) if row.reconstruction else None
    if reconstruction and reconstruction.result["rank_deficient"]:
        values["rank_deficient"] = "yes"
    name = generation_name(row.trial, sampled.guidance)
    if row.trial.generator is not None and not row.trial.generator.samplers:
        protocol, name = drawn_by_itself(protocol), ""
    return values | protocol_columns(protocol, "protocol", name)


def making_columns(made: Sequence[Artifact]) -> dict[str, Any]:
    """When, in which time and by which revision sets of samples were measured."""
    created = datetime.datetime.fromtimestamp(made[0].record["created"], datetime.UTC)
    return {
        "generation_s": sum(artifact.record["cost"]["wall_s"] for artifact in made),
        "git_revision": made[0].record["environment"]["git_revision"],
        "created": created.isoformat(timespec="seconds"),
    }


def metrics_of(result: Mapping[str, Any], part: MeasuredOn) -> dict[str, Any]:
    """The metrics of a part, by column, as its stage reported them.

    Returns:
        None for a metric that could not be measured, and for one that did not exist when the
        artifact was made: a new metric is no reason to sample again.
    """
    columns = [c for c in COLUMNS.values() if c.measured_on == part and c.type == "number"]
    # A result's key holds the VERSION of its stage, so an artifact that is found has every metric
    # that existed when VERSION was last raised. One of those can only be absent by a mistake in
    # the stage, such as a name that was changed there, and must not pass for "not measured".
    absent = [c.name for c in columns if c.promised and c.name not in result]
    assert not absent, f"a stage must report {absent}, but its result has only {sorted(result)}"
    return {column.name: result.get(column.name) for column in columns}


def generation_columns(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of samples, from the results of one stage or more (one a sampling seed)."""
    values: dict[str, Any] = {}
    measured = [metrics_of(result, "samples") for result in results]
    for name in measured[0]:
        found = [metrics[name] for metrics in measured]
        values[name] = None if None in found else statistics.fmean(found)
    if len(results) > 1:
        for name in ("gfid", "kid"):
            found = [metrics[name] for metrics in measured]
            error = None if None in found else statistics.stdev(found) / math.sqrt(len(found))
            values[f"{name}_se"] = error
    return {
        **values,
        "num_sampling_seeds": len(results),
        "num_images": results[0]["num_images"],
        "num_reference": results[0]["num_reference"],
        "rank_deficient": "yes" if results[0]["rank_deficient"] else "no",
    }


def _slices(row: PlannedRow, found: Found) -> int | None:
    """The most of any stage of its own; artifacts of earlier versions say nothing and had one."""
    kinds = ("tokenizer", "reconstruction", "generator", "generation")
    made = [found[stage.key] for stage in row.stages if stage.kind in kinds and stage.key in found]
    return max((artifact.record["cost"].get("slices", 1) for artifact in made), default=None)


def _was_trained(artifact: Artifact) -> bool:
    return "checkpoint" not in artifact.result


def describe_extractor(network: EncoderStage, artifact: Artifact) -> dict[str, Any]:
    """The columns that say in which features distances are measured."""
    return {
        "extractor": network.encoder.feature_name,
        "distance_name": network.encoder.distance_name,
        "extractor_accuracy": artifact.result.get("eval_accuracy"),
    }
