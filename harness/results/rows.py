"""The results table: one atomic JSON file a row, compiled to parquet and CSV."""

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.config.protocol_presets import generation_name, reconstruction_name
from harness.config.tokenizer import AlignedWith
from harness.execution.stage_run import Outcome
from harness.metrics.extractors import INCEPTION_SHA256
from harness.plan.plan import Plan, PlannedRow, with_inputs
from harness.results.protocol import generation_protocol, reconstruction_protocol
from harness.stages.encoder import EncoderStage
from harness.stages.generation import guidance_label
from harness.stages.generator.stage import flops_per_image
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store
from harness.storage.durable import replacing, storage_errors, write_json

SCHEMA_VERSION = 2
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
    "failure_kind": _text(
        "class of the failure: infrastructure, host_memory, device_memory, divergence, storage, "
        "configuration or error; of a blocked row that of what blocks it"
    ),
    "dataset": _text("data set"),
    "resolution": _count("side of the images [pixels]"),
    "tokenizer": _text("kind of the tokenizer; a pretrained one's name and scaling too"),
    "downsample": _count("image side over latent side"),
    "latent_dim": _count("latent channels"),
    "alignment": _text("kind of the alignment, `none` without"),
    "alignment_encoder": _text("network that the tokenizer is aligned with"),
    "alignment_encoder_accuracy": _number(
        "that network's accuracy on the evaluation split, where it was trained here"
    ),
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
    "generator_flops_per_image": _number(
        "FLOPs of one evaluation of the generator's velocity for one image, without guidance"
    ),
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
    "gfid": _number(
        "Fréchet distance of samples to the reference, mean over sampling seeds; see distance_name"
    ),
    "gfid_se": _number("standard error of gfid over sampling seeds, absent with one"),
    "num_sampling_seeds": _count("sets of samples behind gfid and the metrics that follow"),
    "gfid_infinity": _number("gfid extrapolated to infinitely many samples"),
    "sfid": _number("Fréchet distance of spatial features, 7 channels of an inner layer"),
    "inception_score": _number("inception score in the order of ADM's splits, higher is better"),
    "inception_score_shuffled": _number("inception score over shuffled splits"),
    "kid": _number("kernel distance of samples to the reference, mean over subsets"),
    "kid_se": _number("standard error of kid, over subsets or, with several, over sampling seeds"),
    "precision": _number("share of samples among the reference images' neighbourhoods"),
    "recall": _number("share of reference images among the samples' neighbourhoods"),
    "label_accuracy": _number("share of samples in which the extractor sees the class asked for"),
    "density_cv": _number("coefficient of variation of the latents' density, after t-SNE"),
    "density_gini": _number("Gini coefficient of the latents' density, after t-SNE"),
    "density_entropy": _number("normalised entropy of the latents' density, after t-SNE"),
    "linear_probe_accuracy": _number("accuracy of a linear classifier on the latents"),
    "spectrum_high_share": _number("share of the latents' power above half the Nyquist frequency"),
    "channel_std_ratio": _number("largest over smallest deviation of a latent channel"),
    "num_images": _count("generated images behind gfid"),
    "num_reference": _count("images behind the reference of gfid, absent where a file hides it"),
    "num_reconstructions": _count("images behind rfid, psnr, ssim and lpips"),
    "extractor": _text("feature network of the Fréchet distances"),
    "distance_name": _text("what rfid and gfid are: FID, or in-domain Fréchet distance"),
    "rank_deficient": _text(
        "yes where fewer images than features are behind a distance, which biases it strongly"
    ),
    "num_skipped": _count("unreadable images left out of a given set, absent where made here"),
    "extractor_accuracy": _number("the in-domain extractor's accuracy on the evaluation split"),
    "provenance": _text(
        "published (tokenizer and generator from files), reproduced, given (images made "
        "elsewhere), or reconstruction of a method partly guessed"
    ),
    "protocol_name": _text("preset that the protocol of gfid equals"),
    "protocol_hash": _text("hash of everything that moves gfid but no weight"),
    "protocol": _text("what is hashed [JSON]"),
    "reconstruction_protocol_name": _text("preset that the protocol of rfid equals"),
    "reconstruction_protocol_hash": _text("hash of everything that moves rfid but no weight"),
    "reconstruction_protocol": _text("what is hashed [JSON]"),
    "tokenizer_key": _text("artifact of the tokenizer"),
    "generator_key": _text("artifact of the generator"),
    "generation_key": _text("artifact of the samples, of the first sampling seed"),
    "tokenizer_s": _number("training time of the tokenizer [s]"),
    "generator_s": _number("training time of the generator [s]"),
    "generation_s": _number("time of sampling and its metrics [s]"),
    "train_flops": _number("estimated FLOPs of training tokenizer and generator"),
    "slices": _count(
        "parts in which a stage of the row computed every batch, the most of any; above 1 where a "
        "device ran out of memory"
    ),
    "device": _text("device that trained the generator"),
    "git_revision": _text("code revision that made the samples"),
    "created": _text("when the samples were made [UTC, ISO 8601]"),
    "schema_version": _count("version of these columns"),
}
"""Column -> kind and meaning, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class RowArtifacts:
    """The artifacts of one row that are there."""

    extractor: Artifact | None
    aligner: Artifact | None
    """The network that the tokenizer is aligned with."""
    tokenizer: Artifact | None
    reconstruction: Artifact | None
    diagnostics: Artifact | None
    generator: Artifact | None
    generations: tuple[Artifact | None, ...]

    @classmethod
    def find(cls, row: PlannedRow, store: Store) -> "RowArtifacts":
        """Look each of them up."""

        def find(stage: Stage | None) -> Artifact | None:
            return None if stage is None else store.find(stage.kind, stage.key)

        sampled = row.generator
        return cls(
            extractor=find(row.extractor),
            aligner=find(row.tokenizer.inputs.get("encoder")),
            tokenizer=find(row.tokenizer),
            reconstruction=find(row.reconstruction),
            diagnostics=find(row.diagnostics),
            generator=find(sampled.training) if sampled else None,
            generations=tuple(find(s) for s in sampled.generations) if sampled else (),
        )


def make_row(
    row: PlannedRow, sweep: str, store: Store, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """One line of the table, from the artifacts that are there.

    A row whose stages have not all ended well has a status and an error and no metrics of what
    is missing.
    """
    artifacts = RowArtifacts.find(row, store)
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= _configuration(row, sweep) | _status(row, artifacts, outcomes)
    values |= _tokenizer(artifacts) | _generator(row, artifacts)
    values |= _reconstruction(row, artifacts) | _generation(row, artifacts)
    if artifacts.diagnostics:
        values |= {name: artifacts.diagnostics.result[name] for name in DIAGNOSTICS}
    values["slices"] = _slices(artifacts)
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
    with storage_errors(path):
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
    with replacing(results / "table.parquet") as path:
        pq.write_table(table, path)
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    with replacing(results / "table.csv") as path:
        frame.to_csv(path, index=False)
    return frame


def _configuration(row: PlannedRow, sweep: str) -> dict[str, Any]:
    trial, tokenizer = row.trial, row.trial.tokenizer
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
        "seed": trial.seed,
        "tokenizer_seed": tokenizer.seed,
        "evaluation_seed": trial.evaluation.seed,
        "tokenizer_key": row.tokenizer.key,
        "provenance": "published" if tokenizer.is_given else "reproduced",
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
    return values | _sampled_configuration(row)


def _sampled_configuration(row: PlannedRow) -> dict[str, Any]:
    generator, sampled = row.trial.generator, row.generator
    if generator is None or sampled is None:
        return {}
    guidance, first = sampled.guidance, sampled.generations[0]
    from_files = row.trial.tokenizer.is_given and generator.checkpoint is not None
    return {
        "generator": generator.kind,
        "generator_size": generator.size_name,
        "patch_size": generator.patch_size,
        "generator_seed": generator.seed,
        "generator_images": sampled.step * generator.training.batch_size,
        "guidance": guidance_label(guidance),
        "guidance_kind": guidance.kind,
        "guidance_scale": 1.0 if guidance.kind == "none" else guidance.scale,
        "label_policy": row.trial.evaluation.label_policy,
        "provenance": "published" if from_files else "reproduced",
        "generator_flops_per_image": flops_per_image(sampled.training.config),
        "generator_key": sampled.training.key,
        "generation_key": first.key,
    }


def _status(
    row: PlannedRow, artifacts: RowArtifacts, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    sampled = row.generator
    there = [artifacts.extractor, artifacts.tokenizer, artifacts.reconstruction]
    there += [artifacts.diagnostics] if row.diagnostics else []
    there += [artifacts.generator, *artifacts.generations] if sampled else []
    if all(there):
        return {"status": "done"}
    ended = [outcomes[s.key] for s in with_inputs(row.stages) if s.key in outcomes]
    bad = [o for o in ended if o.status in ("failed", "diverged", "blocked")]
    worst = min(bad, key=lambda o: ("diverged", "failed", "blocked").index(o.status), default=None)
    if worst is None:
        return {"status": "pending"}
    own = {row.reconstruction.key}
    own |= {row.diagnostics.key} if row.diagnostics else set()
    own |= {stage.key for stage in (sampled.training, *sampled.generations)} if sampled else set()
    status = worst.status if worst.key in own or worst.status == "blocked" else "blocked"
    return {"status": status, "error": worst.error, "failure_kind": worst.failure or None}


def _tokenizer(artifacts: RowArtifacts) -> dict[str, Any]:
    tokenizer = artifacts.tokenizer
    if tokenizer is None:
        return {}
    values = {
        "tokenizer_params": tokenizer.result["parameters"],
        "tokenizer_images": tokenizer.result["images"],
    }
    if artifacts.aligner:
        values["alignment_encoder_accuracy"] = artifacts.aligner.result.get("eval_accuracy")
    if _was_trained(tokenizer):
        cost = tokenizer.record["cost"]
        values |= {"tokenizer_s": cost["wall_s"], "train_flops": cost["estimated_flops"]}
    return values


def _generator(row: PlannedRow, artifacts: RowArtifacts) -> dict[str, Any]:
    trained, sampled, generator = row.trial.generator, row.generator, artifacts.generator
    if trained is None or sampled is None:
        return {}
    if generator is None:
        return {"train_flops": None}
    # A snapshot has cost its share of the whole training.
    share = sampled.step / trained.training.steps
    values: dict[str, Any] = {
        "generator_params": generator.result["parameters"],
        "device": generator.record["environment"]["device"],
        "train_flops": None,
    }
    if _was_trained(generator):
        values["generator_s"] = share * generator.record["cost"]["wall_s"]
    if artifacts.tokenizer and _was_trained(artifacts.tokenizer) and _was_trained(generator):
        flops = [a.record["cost"]["estimated_flops"] for a in (artifacts.tokenizer, generator)]
        values["train_flops"] = flops[0] + share * flops[1]
    return values


def _reconstruction(row: PlannedRow, artifacts: RowArtifacts) -> dict[str, Any]:
    extractor, reconstruction = artifacts.extractor, artifacts.reconstruction
    if extractor is None:
        return {}
    values = describe_extractor(row.extractor.config, extractor)
    if reconstruction is None:
        return values
    protocol = reconstruction_protocol(row.reconstruction.config, row.extractor.config, extractor)
    return {
        **values,
        **reconstruction_columns(reconstruction.result),
        "reconstruction_protocol_name": reconstruction_name(
            row.trial,
            num_images=row.reconstruction.config.num_images,
            perceptual_weights=row.reconstruction.config.perceptual_weights,
        ),
        "reconstruction_protocol": protocol.text,
        "reconstruction_protocol_hash": protocol.hash,
    }


def reconstruction_columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of a tokenizer from the result of its stage."""
    return {
        **{name: result[name] for name in ("rfid", "psnr", "ssim", "lpips")},
        "num_reconstructions": result["num_images"],
        "rank_deficient": "yes" if result["rank_deficient"] else "no",
    }


def _generation(row: PlannedRow, artifacts: RowArtifacts) -> dict[str, Any]:
    sampled, extractor = row.generator, artifacts.extractor
    made = [artifact for artifact in artifacts.generations if artifact]
    if sampled is None or extractor is None or not made or len(made) < len(sampled.generations):
        return {}
    created = datetime.datetime.fromtimestamp(made[0].record["created"], datetime.UTC)
    first = sampled.generations[0].config
    protocol = generation_protocol(first, sampled.reference.config, row.extractor.config, extractor)
    values = generation_columns([artifact.result for artifact in made])
    if artifacts.reconstruction and artifacts.reconstruction.result["rank_deficient"]:
        values["rank_deficient"] = "yes"
    return {
        **values,
        "generation_s": sum(artifact.record["cost"]["wall_s"] for artifact in made),
        "git_revision": made[0].record["environment"]["git_revision"],
        "created": created.isoformat(timespec="seconds"),
        "protocol_name": generation_name(row.trial, sampled.guidance),
        "protocol": protocol.text,
        "protocol_hash": protocol.hash,
    }


DIAGNOSTICS = (
    "density_cv",
    "density_gini",
    "density_entropy",
    "linear_probe_accuracy",
    "spectrum_high_share",
    "channel_std_ratio",
)
"""Columns that a look at the latents gives."""

SAMPLE_METRICS = (
    "gfid",
    "gfid_infinity",
    "sfid",
    "inception_score",
    "inception_score_shuffled",
    "kid",
    "kid_se",
    "precision",
    "recall",
    "label_accuracy",
)
"""Columns that a set of samples gives; a row holds their mean over its sets."""


def generation_columns(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of samples, from the results of one stage or more (one a sampling seed)."""
    values: dict[str, Any] = {}
    for name in SAMPLE_METRICS:
        found = [result[name] for result in results]
        values[name] = None if None in found else statistics.fmean(found)
    if len(results) > 1:
        for name in ("gfid", "kid"):
            found = [result[name] for result in results]
            error = None if None in found else statistics.stdev(found) / math.sqrt(len(found))
            values[f"{name}_se"] = error
    return {
        **values,
        "num_sampling_seeds": len(results),
        "num_images": results[0]["num_images"],
        "num_reference": results[0]["num_reference"],
        "rank_deficient": "yes" if results[0]["rank_deficient"] else "no",
    }


def _slices(artifacts: RowArtifacts) -> int | None:
    """The most of any stage of its own; artifacts of earlier versions say nothing and had one."""
    single = (artifacts.tokenizer, artifacts.reconstruction, artifacts.generator)
    made = [artifact for artifact in (*single, *artifacts.generations) if artifact]
    return max((artifact.record["cost"].get("slices", 1) for artifact in made), default=None)


def _was_trained(artifact: Artifact) -> bool:
    return "checkpoint" not in artifact.result


def describe_extractor(network: EncoderStage, artifact: Artifact) -> dict[str, Any]:
    """The columns that say in which features distances are measured."""
    config = network.encoder
    name = f"{config.kind} {config.name}" if config.kind != "inception" else "inception-v3-compat"
    return {
        "extractor": name,
        "distance_name": distance_name(config),
        "extractor_accuracy": artifact.result.get("eval_accuracy"),
    }


def distance_name(extractor: Any) -> str:
    """What a Fréchet distance may be called: plain FID only in Inception's features."""
    if extractor.kind == "inception":
        published = extractor.sha256.startswith(INCEPTION_SHA256)
        return "FID" if published else "Fréchet distance (Inception-v3 of other weights)"
    if extractor.kind == "in_domain":
        return "in-domain Fréchet distance"
    return f"Fréchet distance ({extractor.name})"
