"""The columns of the results table: the one place that says what each of them holds.

The table's Parquet schema carries this specification, and the analysis reads it from there. For
tables without it (CSV files, and Parquet files of earlier revisions) the analysis has a copy, which
a test holds equal to this module; write it anew with

    python -m harness.results.columns > analysis/data/columns.json
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal

from harness.config.axes import Axis, AxisKind, Held

SCHEMA_VERSION = 3
"""Raised when a column changes its name or meaning."""

ColumnType = Literal["text", "count", "number"]
Better = Literal["lower", "higher", "none"]
MeasuredOn = Literal["trial", "tokenizer", "reconstructions", "latents", "generator", "samples"]


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    name: str
    meaning: str
    _: KW_ONLY
    type: ColumnType
    """`count` is a whole number and `number` any; every column may be empty."""
    unit: str = ""
    better: Better = "none"
    """Which way is better; `none` where that is not said, as of a setting."""
    measured_on: MeasuredOn = "trial"
    """Object that the value is a property of. `reconstructions` and `latents` are a tokenizer's:
    trials that share the tokenizer share the value. `trial`: settings, names, and what concerns
    several parts."""
    label: str = ""
    """Short name in figures; the table's `distance_name` follows where it ends in a colon. A column
    with a label and a better way is averaged, compared and drawn by the analysis."""
    axis: AxisKind | None = None
    """Of an axis of the sweep: `seed` where it means repetition, `numeric` where its values are
    numbers, else `categorical`."""
    values: tuple[Held, ...] = ()
    """Values of an axis, in the order of the sweep file; none of a search's range."""
    baseline: Held | None = None
    """Value of an axis that the others are compared with; None of seeds and ranges."""
    moves_with: tuple[str, ...] = ()
    """Columns of axes that move together with this one."""
    promised: bool = False
    """Every artifact that a plan finds has this metric, since it is older than the last raise of
    its stage's `VERSION`. A metric that came later raises no `VERSION`, so artifacts may lack it:
    it stays unpromised until its stage's `VERSION` is next raised for another reason."""

    def metadata(self) -> dict[str, str]:
        """Metadata of the schema's field."""
        told = ("type", "unit", "better", "measured_on", "label")
        about = {"description": self.meaning, **{name: getattr(self, name) for name in told}}
        if self.axis is None:
            return about
        # As JSON, so that numbers stay numbers.
        names = ("values", "baseline", "moves_with")
        return about | {"axis": self.axis} | {n: json.dumps(getattr(self, n)) for n in names}


_text = partial(Column, type="text")
_count = partial(Column, type="count")
_number = partial(Column, type="number")


def _metric(
    part: MeasuredOn,
    name: str,
    better: Better,
    label: str,
    meaning: str,
    unit: str = "",
    *,
    promised: bool = True,
) -> Column:
    """A metric that a stage reports under the name of its column."""
    return _number(
        name, meaning, unit=unit, better=better, measured_on=part, label=label, promised=promised
    )


_pixels = partial(_metric, "reconstructions")
_latents = partial(_metric, "latents")
_samples = partial(_metric, "samples")

# One column in one or two lines, where the formatter would take up to seven.
# fmt: off
_COLUMNS = (
    _text("row_id", "name of the row: trial, snapshot and guidance"),
    _text("trial_id", "name of the trial: its whole configuration"),
    _text("sweep", "name of the sweep"),
    _text("status", "done, failed, diverged, blocked, or pending"),
    _text("error", "why there are no numbers, in one line"),
    _text("failure_kind", "class of the failure: infrastructure, host_memory, device_memory, "
          "divergence, storage, configuration or error; of a blocked row that of what blocks it"),
    _text("dataset", "data set"),
    _count("resolution", "side of the images", unit="pixels"),
    _text("tokenizer", "kind of the tokenizer; a pretrained one's name and scaling too",
          label="tokenizer"),
    _count("downsample", "image side over latent side", label="downsampling"),
    _count("latent_dim", "latent channels", label="latent dim"),
    _text("alignment", "kind of the alignment, `none` without", label="alignment"),
    _text("alignment_encoder", "network that the tokenizer is aligned with", label="encoder"),
    _number("alignment_encoder_accuracy",
          "that network's accuracy on the evaluation split, where it was trained here"),
    _number("vf_weight", "weight of the alignment loss, 0 without alignment",
          label="alignment weight"),
    _number("cos_margin", "margin of the alignment's cosine term", label="cosine margin"),
    _number("distmat_margin", "margin of the alignment's distance-matrix term",
          label="distance margin"),
    _text("adaptive_vf", "whether gradient norms scale the alignment's weight: yes or no",
          label="adaptive weight"),
    _count("codebook_size", "codes of a tokenizer whose latents are indices", label="codes"),
    _text("regularizers", "what else shaped the latents in the tokenizer's training, with settings "
          "that aren't the default; `none` without", label="regularizers"),
    _count("tokenizer_params", "parameters of encoder and decoder", measured_on="tokenizer"),
    _count("tokenizer_images", "images seen in training the tokenizer; empty for a pretrained one",
          measured_on="tokenizer"),
    _text("generator", "kind of the generator", label="generator"),
    _text("generator_size", "size of the generator", label="generator size"),
    _count("patch_size", "side of a token", unit="latent cells", label="patch size"),
    _count("generator_params", "parameters of the generator, position code included",
          measured_on="generator"),
    _number("generator_flops_per_image",
          "one evaluation of the generator's velocity for one image, without guidance",
          unit="FLOPs", better="lower", measured_on="generator"),
    _number("sample_evaluations",
          "evaluations of the generator a sample, with guidance's and a weak model's share; empty "
          "where an adaptive solver chooses its steps", better="lower", measured_on="generator"),
    _number("sample_flops", "one sample, decoded; empty where sample_evaluations is",
          unit="FLOPs", better="lower", measured_on="generator"),
    _number("sample_images_per_s",
            "samples drawn and decoded a second as measured, metrics left out, mean over sampling "
            "seeds; on a CPU by the processor's clock", unit="images/s", better="higher",
            measured_on="generator"),
    _number("sample_tokens_per_s",
            "codes drawn and decoded a second, as sample_images_per_s; empty of other latents",
            unit="tokens/s", better="higher", measured_on="generator"),
    _count("seed", "seed of the trial"),
    _count("tokenizer_seed", "seed of the tokenizer", label="tokenizer seed"),
    _count("generator_seed", "seed of the generator", label="generator seed"),
    _count("evaluation_seed", "seed of noise and labels in the evaluation",
          label="evaluation seed"),
    _count("generator_images", "images seen in training the generator, up to this snapshot",
          measured_on="generator", label="training images"),
    _text("guidance", "guidance in words, `none` without"),
    _text("guidance_kind", "kind of the guidance"),
    _number("guidance_scale",
          "scale of the guidance, 1 without, empty where channel groups have scales of their own"),
    _text("label_policy", "classes asked for: balanced, random or as in the data", label="labels"),
    _pixels("rfid", "lower", "reconstruction:",
          "Fréchet distance of reconstructions to their originals; see distance_name"),
    _pixels("psnr", "higher", "PSNR (dB)",
          "peak signal-to-noise ratio of reconstructions, mean over images", unit="dB"),
    _pixels("ssim", "higher", "SSIM", "structural similarity of reconstructions, mean over images"),
    _pixels("lpips", "lower", "LPIPS",
          "perceptual distance of reconstructions (VGG16), mean over images"),
    _number("codebook_usage", "share of the codes that the evaluation images use",
            better="higher", measured_on="reconstructions", label="codebook usage"),
    _number("codebook_perplexity", "exponential of the entropy of the codes' frequencies in the "
            "evaluation images", unit="codes", better="higher", measured_on="reconstructions",
            label="codebook perplexity"),
    _text("codebook_usage_by_scale",
          "that share for the grid of each scale alone, from coarse to fine; empty with one",
          measured_on="reconstructions"),
    _number("feature_cosine", "cosine of a teacher's features and those decoded, mean over cells "
            "of evaluation images; empty for tokenizers that decode none", better="higher",
            measured_on="tokenizer", label="teacher cosine"),
    _samples("gfid", "lower", "generation:",
          "Fréchet distance of samples to the reference, mean over sampling seeds; see "
          "distance_name"),
    _number("gfid_se", "standard error of gfid over sampling seeds, absent with one",
          measured_on="samples"),
    _count("num_sampling_seeds", "sets of samples behind gfid and the metrics that follow",
          measured_on="samples"),
    _samples("gfid_infinity", "lower", "generation, unlimited samples:",
          "gfid extrapolated to infinitely many samples"),
    _samples("sfid", "lower", "spatial Fréchet distance",
          "Fréchet distance of spatial features, 7 channels of an inner layer"),
    _samples("inception_score", "higher", "inception score",
          "inception score in the order of ADM's splits"),
    _samples("inception_score_shuffled", "higher", "inception score, shuffled",
          "inception score over shuffled splits"),
    _samples("kid", "lower", "kernel distance",
          "kernel distance of samples to the reference, mean over subsets"),
    _samples("kid_se", "none", "",
          "standard error of kid, over subsets or, with several, over sampling seeds"),
    _samples("precision", "higher", "precision",
          "share of samples among the reference images' neighbourhoods"),
    _samples("recall", "higher", "recall",
          "share of reference images among the samples' neighbourhoods"),
    _samples("density", "higher", "density of samples",
          "reference images' neighbourhoods around a sample, over those expected: may exceed 1",
          promised=False),
    _samples("coverage", "higher", "coverage",
          "share of reference images with a sample in their neighbourhood", promised=False),
    _samples("label_accuracy", "higher", "label accuracy",
          "share of samples in which the extractor sees the class asked for"),
    # Of the density's three, the better way is the more uniform one. That the directions of
    # latent measures help generation is for data to say.
    _latents("density_cv", "lower", "density CV",
          "coefficient of variation of the latents' density, after t-SNE"),
    _latents("density_gini", "lower", "density Gini",
          "Gini coefficient of the latents' density, after t-SNE"),
    _latents("density_entropy", "higher", "density entropy",
          "normalised entropy of the latents' density, after t-SNE"),
    _latents("linear_probe_accuracy", "higher", "linear-probe accuracy",
          "accuracy of a linear classifier on the latents"),
    _latents("spectrum_high_share", "lower", "high-frequency share",
          "share of the latents' power above half the Nyquist frequency"),
    _latents("channel_std_ratio", "lower", "channel std ratio",
          "largest over smallest deviation of a latent channel"),
    _count("num_images", "generated images behind gfid", measured_on="samples"),
    _count("num_reference", "images behind the reference of gfid, absent where a file hides it",
          measured_on="samples"),
    _count("num_reconstructions", "images behind rfid, psnr, ssim and lpips",
          measured_on="reconstructions"),
    _text("extractor", "feature network of the Fréchet distances"),
    _text("distance_name", "what rfid and gfid are: FID, or in-domain Fréchet distance"),
    _text("rank_deficient",
          "yes where fewer images than features are behind a distance, which biases it strongly"),
    _count("num_skipped", "unreadable images left out of a given set, absent where made here"),
    _number("extractor_accuracy", "the in-domain extractor's accuracy on the evaluation split"),
    _text("provenance", "published (tokenizer and generator from files), reproduced, given (images "
          "made elsewhere), or reconstruction of a method partly guessed", label="provenance"),
    _text("protocol_name", "preset that the protocol of gfid equals"),
    _text("protocol_hash", "hash of everything that moves gfid but no weight"),
    _text("protocol", "what is hashed", unit="JSON"),
    _text("reconstruction_protocol_name", "preset that the protocol of rfid equals"),
    _text("reconstruction_protocol_hash", "hash of everything that moves rfid but no weight"),
    _text("reconstruction_protocol", "what is hashed", unit="JSON"),
    _text("tokenizer_key", "artifact of the tokenizer"),
    _text("generator_key", "artifact of the generator"),
    _text("generation_key", "artifact of the samples, of the first sampling seed"),
    _number("tokenizer_s", "training time of the tokenizer", unit="s", better="lower",
          measured_on="tokenizer"),
    _number("generator_s", "training time of the generator", unit="s", better="lower",
          measured_on="generator"),
    _number("generation_s", "time of sampling and its metrics", unit="s", better="lower",
          measured_on="generator"),
    _number("train_flops", "estimated cost of training tokenizer and generator", unit="FLOPs",
          better="lower"),
    _count("slices", "parts in which a stage of the row computed every batch, the most of any; "
          "above 1 where a device ran out of memory"),
    _text("device", "device that trained the generator"),
    _text("git_revision", "code revision that made the samples"),
    _text("created", "when the samples were made", unit="UTC, ISO 8601"),
    _count("schema_version", "version of these columns"),
)
# fmt: on

COLUMNS: dict[str, Column] = {column.name: column for column in _COLUMNS}
"""Columns by name, in the order of the table."""
assert len(COLUMNS) == len(_COLUMNS), "a column has one description"


def with_axes(axes: Iterable[Axis]) -> dict[str, Column]:
    """The columns of a sweep's table: each axis has one of its own, after the sweep's name."""
    own = {name: _axis_column(axis) for axis in axes for name in [axis_column(axis.name)]}
    before = list(COLUMNS).index("sweep") + 1
    columns = list(COLUMNS.items())
    return dict([*columns[:before], *own.items(), *columns[before:]])


def axis_column(axis: str) -> str:
    """Name of the column of an axis."""
    return f"axis.{axis}"


def axes_of_row(axes: Iterable[Axis], row: Mapping[str, Any]) -> dict[str, Any]:
    """Axis -> value in a row; an axis that is not in force is absent."""
    held = {axis.name: row.get(axis_column(axis.name)) for axis in axes}
    return {name: value for name, value in held.items() if value is not None}


def _axis_column(axis: Axis) -> Column:
    return Column(
        axis_column(axis.name),
        "what the sweep varies: a preset's name, or the value of this path of the trial; empty "
        "where it is not in force",
        type=axis.type,
        label=axis.short,
        axis=axis.kind,
        values=axis.values,
        baseline=axis.baseline,
        moves_with=tuple(map(axis_column, axis.moves_with)),
    )


if __name__ == "__main__":
    lines = [
        f"{json.dumps(name)}: {json.dumps(column.metadata(), ensure_ascii=False)}"
        for name, column in COLUMNS.items()
    ]
    sys.stdout.write("{{\n{}\n}}\n".format(",\n".join(lines)))
