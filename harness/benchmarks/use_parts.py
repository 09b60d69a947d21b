"""Parts that use trained networks, and that feed them: encoding, sampling, metrics, data."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.benchmarks.generated import write_folder, write_parquet
from harness.benchmarks.measuring import Bench, Case, Variant, ladder
from harness.benchmarks.rows import Row
from harness.benchmarks.training_parts import trained_batch
from harness.config.generator_settings import GeneratorBase
from harness.config.samplers import SamplerSettings
from harness.config.training import Precision
from harness.data import DatasetConfig, open_dataset
from harness.data.stream import BatchStream
from harness.metrics.sample_scores import SampleScores
from harness.schema.keys import to_plain
from harness.stages.encoder.stage import flops_per_image as encoder_flops_per_image
from harness.stages.encoder.stage import load_extractor
from harness.stages.generation import GenerationStage, Sampling
from harness.stages.generator.kind import Draw, GeneratorStage
from harness.stages.generator.kinds import kind_of
from harness.stages.generator.stage import flops_per_image as generator_flops_per_image
from harness.stages.running.optimisation import arithmetic
from harness.stages.tokenizer.stage import (
    decoding_flops_per_image,
    encoding_flops_per_image,
    load_tokenizer,
)
from harness.storage.artifacts import Artifact
from models.guidance import ClassifierFreeGuidance, NoGuidance, guided_parts
from models.rounding import round_weights
from models.sampler import SamplerConfig, time_grid
from models.token_sampling import LogitGuidance
from models.tokenizer import TokenizerNetwork

DATA_IMAGES = 2_000
"""Images of a generated data set at most."""
GUIDANCES: Mapping[str, NoGuidance | ClassifierFreeGuidance | LogitGuidance] = {
    # The published model's after 800 epochs.
    "guidance everywhere": ClassifierFreeGuidance(scale=6.7),
    "guidance in its interval": ClassifierFreeGuidance(
        scale=6.7, interval_start=0.125, interval_end=1.0
    ),
    "guidance of logits": LogitGuidance(scale=2.0),
    "no guidance": NoGuidance(),
}
"""The first one in fp32 is what the speed of all is compared with."""
AS_PUBLISHED = ClassifierFreeGuidance(scale=10.0, interval_start=0.1)
"""The published model's after 64 epochs, by which ours is held to the released sampler."""


def encoding(bench: Bench) -> list[Row]:
    """Measures images to latents, as the latents stage's network encodes, under every variant."""
    subject = bench.subject
    source = subject.stage("latents").inputs["tokenizer"]
    tokenizer = subject.artifact(source)
    count = subject.batch_size or subject.trial.latents.batch_size
    flops = encoding_flops_per_image(source.config)
    row = Row(
        part="encoding",
        what="encoder",
        images=count,
        configuration=json.dumps({"batch_size": count}),
    )
    names = bench.factors("channels last", "bf16")
    # Plain and each alone, without the sums.
    variants = ladder(names)[: 1 + len(names)]
    cases = [
        bench.calls(each, partial(_encode, bench, tokenizer, count, each), flops, 1.0)
        for each in variants
    ]
    return bench.compare(row, cases)


def _encode(
    bench: Bench, tokenizer: Artifact, count: int, variant: Variant
) -> Callable[[], object]:
    side = bench.subject.trial.data.resolution
    images = torch.rand(count, 3, side, side, device=bench.device) * 2 - 1
    network = load_tokenizer(
        tokenizer, bench.device, compiled=variant.compile, channels_last=variant.channels_last
    )

    def encode() -> Tensor:
        with torch.no_grad(), arithmetic(variant.precision, bench.device):
            return network.encode(images).mode()

    return encode


def sampling(bench: Bench, sizes: Mapping[str, GeneratorBase]) -> list[Row]:
    """Measures noise to pixels of each size, under every guidance and arithmetic."""
    row = Row(part="sampling", what="generator")
    if bench.subject.trial.generator is None:
        reason = "the trial has no generator"
        return [dataclasses.replace(row, status="skipped", reason=reason)]
    stage = bench.subject.stage("generation")
    tokenizer = bench.subject.artifact(stage.inputs["tokenizer"])
    rows: list[Row] = []
    for name, size in sizes.items():
        generator = stage.inputs["generator"].config
        sized = kind_of(size).resized(generator.generator, size)
        generator = dataclasses.replace(generator, generator=sized)
        rows += _sampling_of_one(bench, dataclasses.replace(row, what=name), generator, tokenizer)
    return rows


def _sampling_of_one(
    bench: Bench, row: Row, generator: GeneratorStage, tokenizer: Artifact
) -> list[Row]:
    stage = bench.subject.stage("generation")
    sampler = _cut_sampler(stage.config.sampler, bench.num_points)
    kind = kind_of(generator.generator)
    count = bench.subject.batch_size or bench.subject.trial.evaluation.batch_size
    velocity_flops = generator_flops_per_image(generator)
    decoder_flops = decoding_flops_per_image(stage.inputs["tokenizer"].config)
    row = dataclasses.replace(
        row,
        images=count,
        reason=f"{kind.evaluations(generator, sampler, NoGuidance())} evaluations",
        configuration=json.dumps({"sampler": to_plain(sampler), "batch_size": count}),
    )

    # Cases share networks. Where they run one after the other, each alone in memory, the weights of
    # one arithmetic are dropped for those of the next.
    @lru_cache(maxsize=None if bench.together else 1)
    def network(rounded: bool, compiled: bool = False) -> nn.Module:
        model = kind.build(generator)
        if rounded:
            round_weights(model)
        if compiled:
            kind.compile(model)
        return model.to(bench.device).eval().requires_grad_(False)

    @cache
    def decoder() -> TokenizerNetwork:
        return load_tokenizer(tokenizer, bench.device)

    @cache
    def labels() -> Tensor:
        return torch.arange(count, device=bench.device) % generator.num_classes

    def images(config: GenerationStage) -> Callable[[], object]:
        drawn = Sampling(
            generator=generator,
            model=network(config.precision == "bf16"),
            weak=None,
            tokenizer=decoder(),
            mean=None,
            std=None,
            config=config,
            device=bench.device,
        )
        random = torch.Generator(device=bench.device).manual_seed(0)
        return torch.no_grad()(lambda: drawn.images(labels(), random))

    def latents(
        config: GenerationStage, draw: Draw = kind.draw, compiled: bool = False
    ) -> Callable[[], object]:
        """Without the decoder, which would weigh more than it does at the published 249 steps."""
        # The released code has the weights of bfloat16 rounded at every call.
        model = network(config.precision == "bf16" and draw is kind.draw, compiled)
        random = torch.Generator(device=bench.device).manual_seed(0)

        def drawn() -> Tensor:
            with torch.no_grad(), arithmetic(config.precision, bench.device):
                return draw(model, labels(), random, config.sampler, config.guidance)

        return drawn

    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if bench.device.type == "cuda":
        precisions = ("fp32", "tf32", "bf16")
    cases: list[Case] = []
    able = {
        words: guidance
        for words, guidance in GUIDANCES.items()
        if guidance.kind in generator.generator.guidances
    }

    def case(words: str, guidance: Any, precision: Precision, make: Any, decoded: float) -> Case:
        config = dataclasses.replace(
            stage.config, sampler=sampler, guidance=guidance, precision=precision
        )
        flops = velocity_flops * (kind.evaluations(generator, sampler, guidance) or 0) + decoded
        variant = Variant(name=f"{words}, {precision}", precision=precision)
        share = decoded / flops if flops else 0.0
        return bench.calls(variant, partial(make, config), flops, share)

    for precision, (words, guidance) in itertools.product(precisions, able.items()):
        cases.append(case(words, guidance, precision, images, decoder_flops))
    rows = bench.compare(row, cases)
    as_published = AS_PUBLISHED.kind in generator.generator.guidances
    if as_published and getattr(sampler, "kind", "") == "euler":
        held = {
            "latents as published": partial(latents, draw=draw_as_published),
            "latents at its guidance": latents,
        }
        if bench.compiled:
            held["latents at its guidance, compiled"] = partial(latents, compiled=True)
        for precision in precisions:
            cases = [case(n, AS_PUBLISHED, precision, make, 0.0) for n, make in held.items()]
            rows += bench.compare(row, cases)
    return rows


def draw_as_published(
    model: Any,
    labels: Tensor,
    random: torch.Generator,
    sampler: SamplerConfig,
    guidance: ClassifierFreeGuidance,
    weak: None = None,
    slices: int = 1,
) -> Tensor:
    """Draws latents by the procedure of the released sampler, which is written here plainly.

    The batch is doubled for good: both halves are evaluated at every time, outside the interval of
    guidance too, and both are carried along; the second one is replaced by the first beforehand.
    """
    assert weak is None, "the released sampler guides by a class"
    assert slices == 1, "the released sampler has no slices"
    layout, count = model.layout, len(labels)
    noise = torch.randn((count, *layout.shape), generator=random, device=random.device)
    state = torch.cat([noise, noise])
    classes = torch.cat([labels, torch.full_like(labels, model.num_classes)])
    # With gradients on, the network turns positions plainly; frozen weights have none all the same.
    with torch.enable_grad():
        for start, end in itertools.pairwise(time_grid(sampler).tolist()):
            both = torch.cat([state[:count], state[:count]])
            times = torch.full((2 * count, layout.num_groups), start, device=state.device)
            strong, weak_half = model(both, times, classes).float().chunk(2)
            guided = strong
            if guided_parts(guidance, (start,) * layout.num_groups, layout):
                guided = weak_half + guidance.scale * (strong - weak_half)
            state = state + (end - start) * torch.cat([guided, guided])
    return state[:count]


def _cut_sampler(sampler: SamplerSettings, num_points: int) -> SamplerSettings:
    """A fixed number of steps; an adaptive solver would choose its own for untrained networks."""
    if not isinstance(sampler, SamplerConfig):
        return sampler
    if sampler.kind == "dopri5":
        return SamplerConfig(num_steps=num_points)
    return dataclasses.replace(sampler, num_steps=min(sampler.num_steps, num_points))


def metrics(bench: Bench) -> list[Row]:
    """Measures images to features and their moments, as the generation stage adds them up."""
    subject = bench.subject
    stage = subject.stage("generation")
    source = stage.inputs["extractor"]
    extraction = stage.config.extraction
    extractor = load_extractor(subject.artifact(source), bench.device, extraction)
    side = subject.trial.data.resolution
    count = subject.batch_size or subject.trial.evaluation.batch_size
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=bench.device)
    labels = torch.zeros(count, dtype=torch.int64, device=bench.device)
    row = Row(
        part="metric pipeline",
        what=f"{extractor.name}, all accumulators",
        images=count,
        reason=subject.notes.get("extractor", ""),
        configuration=json.dumps({**to_plain(extraction), "batch_size": count}),
    )

    def update() -> None:
        SampleScores(extractor, count, bench.device).update(images, labels)

    # Extraction excludes TF32.
    variant = Variant(name="", precision="bf16" if extraction.precision == "bfloat16" else "fp32")
    flops = encoder_flops_per_image(source.config)
    return bench.compare(row, [bench.calls(variant, lambda: update, flops)])


def data(bench: Bench, folder: Path) -> list[Row]:
    """Measures files to batches of pixels, as training asks for them, without computing."""
    trial = bench.subject.trial
    resolution = trial.data.resolution
    count = trained_batch(bench) or bench.subject.batch_size or trial.latents.batch_size
    workers = bench.decode_workers
    files = write_parquet(folder / "parquet", resolution, DATA_IMAGES, 10, workers)
    sources: dict[str, DatasetConfig] = {
        "parquet": files,
        "parquet, pixels in memory": dataclasses.replace(files, keep="memory"),
        "image folder": write_folder(folder / "folder", resolution, DATA_IMAGES, workers),
    }
    settings = {"batch_size": count, "crop": files.crop, "decode_workers": workers}
    row = Row(
        part="data pipeline",
        what=f"generated JPEG to {resolution} px",
        images=count,
        configuration=json.dumps(settings),
    )
    cases = [
        bench.calls(Variant(name=name), partial(_read, config, count))
        for name, config in sources.items()
    ]
    return bench.compare(row, cases, together=True, to_first=False)


def _read(config: DatasetConfig, count: int) -> Callable[[], object]:
    dataset = open_dataset(config)
    stream = BatchStream(dataset=dataset, split="train", batch_size=count, seed=0, augment=True)
    steps = itertools.count()
    return lambda: stream.batch(next(steps))
