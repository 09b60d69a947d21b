"""What trained networks are used for, and what feeds them: encoding, metrics, data."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.benchmarks.images import write_folder, write_parquet
from harness.benchmarks.measuring import Bench
from harness.benchmarks.rows import Row
from harness.benchmarks.timed import Maker, timed
from harness.benchmarks.variants import Variant
from harness.config.tokenizer import TokenizerConfig
from harness.data import DatasetConfig, open_dataset
from harness.data.stream import BatchStream
from harness.metrics.sample_scores import SampleScores
from harness.schema.keys import to_plain
from harness.stages.encoder import flops_per_image as encoder_flops_per_image
from harness.stages.encoder import load_extractor
from harness.stages.running.optimisation import arithmetic
from harness.stages.tokenizer.stage import encoding_flops_per_image, load_tokenizer
from harness.storage.artifacts import Artifact

DATA_IMAGES = 2_000
"""Images of a generated data set at most."""


def encoding(bench: Bench) -> list[Row]:
    """Images to latents, as the latents stage's network does it, under every variant."""
    subject = bench.subject
    stage = subject.stage("latents")
    tokenizer = subject.artifact(stage.inputs["tokenizer"])
    count = subject.batch_size or subject.trial.latents.batch_size
    flops = encoding_flops_per_image(stage.inputs["tokenizer"].config)
    row = Row(
        part="encoding",
        what="encoder",
        images=count,
        configuration=json.dumps({"batch_size": count}),
    )
    variants = [Variant(name="plain"), Variant(name="plain + channels last", channels_last=True)]
    variants.append(Variant(name="plain + bf16", precision="bf16"))
    if bench.compiled:
        variants.append(Variant(name="plain + compile", compile=True))
    if bench.device.type == "cuda":
        variants.append(Variant(name="plain + tf32", precision="tf32"))
    makers = {v.name: _encoding(bench, tokenizer, count, v) for v in variants}
    every, all_of_it = dict.fromkeys(makers, flops), dict.fromkeys(makers, 1.0)
    return timed(bench, row, variants, makers, every, convolutions=all_of_it)


def _encoding(bench: Bench, tokenizer: Artifact, count: int, variant: Variant) -> Maker:
    return lambda: _encode(bench, tokenizer, count, variant)


def _encode(
    bench: Bench, tokenizer: Artifact, count: int, variant: Variant
) -> Callable[[], object]:
    images = _noise_images(bench, count)
    network = load_tokenizer(
        tokenizer, bench.device, compiled=variant.compile, channels_last=variant.channels_last
    )

    def encode() -> Tensor:
        with torch.no_grad(), arithmetic(variant.precision, bench.device):
            return network.encode(images).mode()

    return encode


def metrics(bench: Bench) -> list[Row]:
    """Images to features and their moments, as the generation stage adds up its samples."""
    subject = bench.subject
    stage = subject.stage("generation")
    source = stage.inputs["extractor"]
    extraction = stage.config.extraction
    extractor = load_extractor(subject.artifact(source), bench.device, extraction)
    side = subject.trial.data.resolution
    count = subject.batch_size or subject.trial.evaluation.batch_size
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=bench.device)
    labels = torch.zeros(count, dtype=torch.int64, device=bench.device)
    flops = encoder_flops_per_image(source.config)
    row = Row(
        part="metric pipeline",
        what=f"{extractor.name}, all accumulators",
        images=count,
        reason=subject.notes.get("extractor", ""),
        configuration=json.dumps({**to_plain(extraction), "batch_size": count}),
    )
    state = {"scores": SampleScores(extractor, count, bench.device)}

    def update() -> None:
        state["scores"] = SampleScores(extractor, count, bench.device)
        state["scores"].update(images, labels)

    # Extraction excludes TF32.
    variant = Variant(name="", precision="bf16" if extraction.precision == "bfloat16" else "fp32")
    return timed(bench, row, [variant], {"": lambda: update}, {"": flops})


def data(bench: Bench, folder: Path) -> list[Row]:
    """Files to batches of pixels, as training asks for them, without anything that computes."""
    trial = bench.subject.trial
    resolution = trial.data.resolution
    count = bench.subject.batch_size or trial.latents.batch_size
    if isinstance(trial.tokenizer, TokenizerConfig):
        count = bench.subject.batch_of(trial.tokenizer.training).batch_size
    workers = bench.decode_workers
    files = write_parquet(folder / "parquet", resolution, DATA_IMAGES, 10, workers)
    sources: dict[str, DatasetConfig] = {
        "parquet": files,
        "parquet, pixels in memory": dataclasses.replace(files, keep="memory"),
        "image folder": write_folder(folder / "folder", resolution, DATA_IMAGES, workers),
    }
    makers = {name: _reading(config, count) for name, config in sources.items()}
    row = Row(
        part="data pipeline",
        what=f"generated JPEG to {resolution} px",
        images=count,
        configuration=json.dumps(
            {"batch_size": count, "crop": files.crop, "decode_workers": workers}
        ),
    )
    variants = [Variant(name=name) for name in sources]
    rows = timed(bench, row, variants, makers, {}, together=True)
    # Several formats are not variants of one thing.
    alone = {"to_plain": None, "to_plain_q1": None, "to_plain_q3": None, "precision": ""}
    return [dataclasses.replace(each, **alone) for each in rows]


def _reading(config: DatasetConfig, count: int) -> Maker:
    return lambda: _read(config, count)


def _read(config: DatasetConfig, count: int) -> Callable[[], object]:
    dataset = open_dataset(config)
    stream = BatchStream(dataset=dataset, split="train", batch_size=count, seed=0, augment=True)
    steps = itertools.count()
    return lambda: stream.batch(next(steps))


def _noise_images(bench: Bench, count: int) -> Tensor:
    side = bench.subject.trial.data.resolution
    return torch.rand(count, 3, side, side, device=bench.device) * 2 - 1
