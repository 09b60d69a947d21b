"""The results table: one atomic JSON file a row, compiled to parquet and CSV."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.execution import Outcome
from harness.plan import Plan, PlannedRow, guidance_label, with_inputs
from harness.protocol import generation_protocol, reconstruction_protocol
from harness.store import Artifact, Store, write_json
from harness.trial import AlignedWith

SCHEMA_VERSION = 1
"""Raised when a column changes its name or meaning."""

Kind = Literal["text", "count", "number"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table."""

    kind: Kind
    meaning: str
    """What it holds, with its unit."""


def _text(meaning: str) -> Column:
    return Column(kind="text", meaning=meaning)


def _count(meaning: str) -> Column:
    return Column(kind="count", meaning=meaning)


def _number(meaning: str) -> Column:
    return Column(kind="number", meaning=meaning)


COLUMNS: dict[str, Column] = {
    "row_id": _text("name of the row: trial, snapshot and guidance"),
    "trial_id": _text("name of the trial: its whole configuration"),
    "sweep": _text("name of the sweep"),
    "status": _text("done, failed, diverged, blocked, or pending"),
    "error": _text("why there are no numbers, in one line"),
    "dataset": _text("data set"),
    "resolution": _count("side of the images [pixels]"),
    "tokenizer": _text("kind of the tokenizer; a pretrained one's name and scaling too"),
    "downsample": _count("image side over latent side"),
    "latent_dim": _count("latent channels"),
    "alignment": _text("kind of the alignment, `none` without"),
    "alignment_encoder": _text("network that the tokenizer is aligned with"),
    "vf_weight": _number("weight of the alignment loss, 0 without alignment"),
    "cos_margin": _number("margin of the alignment's cosine term"),
    "distmat_margin": _number("margin of the alignment's distance-matrix term"),
    "adaptive_vf": _text("whether gradient norms scale the alignment's weight: yes or no"),
    "tokenizer_params": _count("parameters of encoder and decoder"),
    "tokenizer_images": _count("images seen in training the tokenizer; empty for a pretrained one"),
    "generator": _text("kind of the generator"),
    "generator_size": _text("size of the generator"),
    "patch_size": _count("side of a token [latent cells]"),
    "generator_params": _count("parameters of the generator, position code included"),
    "seed": _count("seed of the trial"),
    "tokenizer_seed": _count("seed of the tokenizer"),
    "generator_seed": _count("seed of the generator"),
    "evaluation_seed": _count("seed of noise and labels in the evaluation"),
    "generator_images": _count("images seen in training the generator, up to this snapshot"),
    "guidance": _text("guidance in words, `none` without"),
    "guidance_kind": _text("kind of the guidance"),
    "guidance_scale": _number("scale of the guidance, 1 without"),
    "label_policy": _text("classes asked for: balanced, random or as in the data"),
    "rfid": _number("Fréchet distance of reconstructions to their originals; see distance_name"),
    "psnr": _number("peak signal-to-noise ratio of reconstructions, mean over images [dB]"),
    "ssim": _number("structural similarity of reconstructions, mean over images"),
    "lpips": _number("perceptual distance of reconstructions (VGG16), mean over images"),
    "gfid": _number("Fréchet distance of samples to the training split; see distance_name"),
    "label_accuracy": _number("share of samples in which the extractor sees the class asked for"),
    "num_images": _count("generated images behind gfid"),
    "num_reference": _count("training images behind the reference of gfid"),
    "num_reconstructions": _count("images behind rfid, psnr, ssim and lpips"),
    "extractor": _text("feature network of the Fréchet distances"),
    "distance_name": _text("what rfid and gfid are: FID, or in-domain Fréchet distance"),
    "extractor_accuracy": _number("the in-domain extractor's accuracy on the evaluation split"),
    "provenance": _text(
        "published (tokenizer and generator from files), reproduced, or reconstruction of a method "
        "partly guessed"
    ),
    "protocol_hash": _text("hash of everything that moves gfid but no weight"),
    "protocol": _text("what is hashed [JSON]"),
    "reconstruction_protocol_hash": _text("hash of everything that moves rfid but no weight"),
    "reconstruction_protocol": _text("what is hashed [JSON]"),
    "tokenizer_key": _text("artifact of the tokenizer"),
    "generator_key": _text("artifact of the generator"),
    "generation_key": _text("artifact of the samples"),
    "tokenizer_s": _number("training time of the tokenizer [s]"),
    "generator_s": _number("training time of the generator [s]"),
    "generation_s": _number("time of sampling and its metrics [s]"),
    "train_flops": _number("estimated FLOPs of training tokenizer and generator"),
    "device": _text("device that trained the generator"),
    "git_revision": _text("code revision that made the samples"),
    "created": _text("when the samples were made [UTC, ISO 8601]"),
    "schema_version": _count("version of these columns"),
}
"""Column -> kind and meaning, in the order of the table."""


def make_row(
    row: PlannedRow, sweep: str, store: Store, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """One line of the table, from the artifacts that are there.

    A row whose stages have not all ended well has a status and an error and no metrics of what
    is missing.
    """
    artifacts = {
        name: store.find(stage.kind, stage.key)
        for name, stage in (
            ("tokenizer", row.tokenizer),
            ("reconstruction", row.reconstruction),
            ("generator", row.generator),
            ("generation", row.generation),
            ("extractor", row.generation.inputs["extractor"]),
        )
    }
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= _configuration(row, sweep) | _status(row, artifacts, outcomes)
    values |= _measurements(row, artifacts)
    assert list(values) == list(COLUMNS), "a row has exactly the table's columns"
    return values


def write_rows(
    plan: Plan, store: Store, outcomes: Mapping[str, Outcome], results: Path
) -> list[dict[str, Any]]:
    """Write `rows/<row id>.json` for every row of the plan, and remove those of earlier plans."""
    rows = [make_row(row, plan.sweep.file.name, store, outcomes) for row in plan.rows]
    folder = results / "rows"
    kept = {write_row(values, results) for values in rows}
    for path in folder.glob("*.json"):
        if path not in kept:
            path.unlink()
    return rows


def write_row(values: Mapping[str, Any], results: Path) -> Path:
    """Write one row's file."""
    path = results / "rows" / f"{values['row_id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return path


def compile_table(rows: Sequence[Mapping[str, Any]], results: Path) -> pd.DataFrame:
    """Write `table.parquet` (with units in the schema) and `table.csv`."""
    types = {"text": pa.string(), "count": pa.int64(), "number": pa.float64()}
    schema = pa.schema(
        [
            pa.field(name, types[column.kind], metadata={"description": column.meaning})
            for name, column in COLUMNS.items()
        ]
    )
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    _replace(results / "table.parquet", lambda path: pq.write_table(table, path))
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    _replace(results / "table.csv", lambda path: frame.to_csv(path, index=False))
    return frame


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    temporary.replace(path)


def _configuration(row: PlannedRow, sweep: str) -> dict[str, Any]:
    trial, tokenizer, generator = row.trial, row.trial.tokenizer, row.trial.generator
    evaluation, guidance = trial.evaluation, row.guidance
    from_files = tokenizer.is_given and generator.checkpoint is not None
    values: dict[str, Any] = {
        "row_id": row.row_id,
        "trial_id": row.trial_id,
        "sweep": sweep,
        "dataset": trial.data.name,
        "resolution": trial.data.resolution,
        "tokenizer": tokenizer.name,
        "downsample": tokenizer.downsample,
        "latent_dim": tokenizer.latent_dim,
        "alignment": tokenizer.alignment.kind,
        "vf_weight": 0.0,
        "generator": generator.kind,
        "generator_size": generator.size_name,
        "patch_size": generator.patch_size,
        "seed": trial.seed,
        "tokenizer_seed": tokenizer.seed,
        "generator_seed": generator.seed,
        "evaluation_seed": evaluation.seed,
        "generator_images": row.step * generator.training.batch_size,
        "guidance": guidance_label(guidance),
        "guidance_kind": guidance.kind,
        "guidance_scale": 1.0 if guidance.kind == "none" else guidance.scale,
        "label_policy": evaluation.label_policy,
        "provenance": "published" if from_files else "reproduced",
        "tokenizer_key": row.tokenizer.key,
        "generator_key": row.generator.key,
        "generation_key": row.generation.key,
        "schema_version": SCHEMA_VERSION,
    }
    if isinstance(tokenizer.alignment, AlignedWith):
        alignment = tokenizer.alignment
        values |= {
            "alignment_encoder": alignment.encoder.name,
            "vf_weight": alignment.vf_weight,
            "cos_margin": alignment.cos_margin,
            "distmat_margin": alignment.distmat_margin,
            "adaptive_vf": "yes" if alignment.adaptive else "no",
        }
    return values


def _status(
    row: PlannedRow,
    artifacts: Mapping[str, Artifact | None],
    outcomes: Mapping[str, Outcome],
) -> dict[str, Any]:
    if all(artifacts.values()):
        return {"status": "done"}
    ended = [outcomes[s.key] for s in with_inputs(row.stages) if s.key in outcomes]
    bad = [o for o in ended if o.status in ("failed", "diverged", "blocked")]
    worst = min(bad, key=lambda o: ("diverged", "failed", "blocked").index(o.status), default=None)
    if worst is None:
        return {"status": "pending"}
    own = {stage.key for stage in (row.generator, row.generation, row.reconstruction)}
    status = worst.status if worst.key in own or worst.status == "blocked" else "blocked"
    return {"status": status, "error": worst.error}


def _measurements(row: PlannedRow, artifacts: Mapping[str, Artifact | None]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    tokenizer, generator = artifacts["tokenizer"], artifacts["generator"]
    reconstruction, generation = artifacts["reconstruction"], artifacts["generation"]
    extractor = artifacts["extractor"]
    if tokenizer:
        values["tokenizer_params"] = tokenizer.result["parameters"]
        values["tokenizer_images"] = tokenizer.result["images"]
        if _was_trained(tokenizer):
            values["tokenizer_s"] = tokenizer.record["cost"]["wall_s"]
    if generator:
        values["generator_params"] = generator.result["parameters"]
        # A snapshot has cost its share of the whole training.
        share = row.step / row.trial.generator.training.steps
        if _was_trained(generator):
            values["generator_s"] = share * generator.record["cost"]["wall_s"]
        values["device"] = generator.record["environment"]["device"]
        if tokenizer and _was_trained(tokenizer) and _was_trained(generator):
            flops = [a.record["cost"]["estimated_flops"] for a in (tokenizer, generator)]
            values["train_flops"] = flops[0] + share * flops[1]
    if extractor:
        values |= _extractor(row, extractor)
    if extractor and reconstruction:
        result = reconstruction.result
        values |= {name: result[name] for name in ("rfid", "psnr", "ssim", "lpips")}
        values["num_reconstructions"] = result["num_images"]
        protocol = reconstruction_protocol(row, extractor)
        values["reconstruction_protocol"] = protocol.text
        values["reconstruction_protocol_hash"] = protocol.hash
    if extractor and generation:
        result = generation.result
        names = ("gfid", "label_accuracy", "num_images", "num_reference")
        values |= {name: result[name] for name in names}
        values["generation_s"] = generation.record["cost"]["wall_s"]
        values["git_revision"] = generation.record["environment"]["git_revision"]
        created = datetime.datetime.fromtimestamp(generation.record["created"], datetime.UTC)
        values["created"] = created.isoformat(timespec="seconds")
        protocol = generation_protocol(row, extractor)
        values["protocol"], values["protocol_hash"] = protocol.text, protocol.hash
    return values


def _was_trained(artifact: Artifact) -> bool:
    return "checkpoint" not in artifact.result


def _extractor(row: PlannedRow, artifact: Artifact) -> dict[str, Any]:
    config = row.trial.evaluation.extractor
    name = f"{config.kind} {config.name}" if config.kind != "inception" else "inception-v3-compat"
    return {
        "extractor": name,
        "distance_name": distance_name(config),
        "extractor_accuracy": artifact.result.get("eval_accuracy"),
    }


def distance_name(extractor: Any) -> str:
    """What a Fréchet distance may be called: plain FID only in Inception's features."""
    if extractor.kind == "inception":
        return "FID"
    if extractor.kind == "in_domain":
        return "in-domain Fréchet distance"
    return f"Fréchet distance ({extractor.name})"
