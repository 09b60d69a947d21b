"""Whether the parts of a trial fit each other; each part has checked itself before."""

from typing import get_args

from harness.config.generator_settings import GeneratorBase
from harness.config.ranges import check_ranges
from harness.config.trial import Trial
from harness.config.weights import Provenance
from harness.data.latents.folder import LatentFolder, LatentStatistics
from harness.schema.reading import ConfigError
from models.guidance import AutoGuidance, ClassifierFreeGuidance, guided_channels
from models.latent import IndexLayout, LatentLayout
from models.sampler import SamplerConfig

SSIM_WINDOW = 11
"""Side of the windows of SSIM in pixels (Wang et al., 2004)."""


def check_trial(trial: Trial) -> None:
    """Refuse a trial whose parts do not fit each other."""
    check_ranges(trial)
    if trial.tokenizer.decodes != "images":
        raise ConfigError(
            f"must be a tokenizer that decodes images, but {trial.tokenizer.kind!r} decodes "
            "features; set it to composite and give this block as `semantic`",
            path="tokenizer.kind",
        )
    for path, part in (("tokenizer", trial.tokenizer), ("generator", trial.generator)):
        if part is not None and part.provenance not in (known := get_args(Provenance)):
            raise ConfigError(
                f"the provenance of a kind must be one of {', '.join(known)}, but "
                f"{part.kind!r} says {part.provenance!r}; correct it in its class",
                path=path,
            )
    resolution, downsample = trial.data.resolution, trial.tokenizer.downsample
    if resolution % downsample:
        raise ConfigError(
            f"must be a multiple of the tokenizer's downsampling factor {downsample}, but got "
            f"{resolution}; use {resolution // downsample * downsample or downsample}, or another "
            "tokenizer (each further level of tokenizer.architecture.width_multipliers halves the "
            "grid)",
            path="data.resolution",
        )
    if resolution < SSIM_WINDOW:
        raise ConfigError(
            f"must be at least {SSIM_WINDOW}, the pixels of a window of SSIM, but got "
            f"{resolution}; use {-(-SSIM_WINDOW // downsample) * downsample}",
            path="data.resolution",
        )
    try:
        trial.tokenizer.check(resolution)
        layout = trial.layout
    except ConfigError as error:
        raise error.within(path="tokenizer") from error
    except ValueError as error:
        raise ConfigError(str(error), path="tokenizer") from error
    if isinstance(layout, IndexLayout):
        _check_indices(trial)
    if trial.generator is not None:
        _check_generator(trial, trial.generator)
    _check_evaluation(trial)
    _check_encoders(trial)
    _check_counts(trial)


def _check_indices(trial: Trial) -> None:
    """Refuse of indices what only numbers have, and codebooks that nothing could fill."""
    tokenizer, layout = trial.tokenizer, trial.layout
    assert isinstance(layout, IndexLayout)
    images = trial.latents.num_images or trial.data.num_train_images
    if (tokens := images * layout.shape[0]) < layout.codebook_size and not tokenizer.is_given:
        raise ConfigError(
            f"must have a codebook of at most {tokens:,} codes, as many as the {images:,} training "
            f"images have tokens, but has {layout.codebook_size:,}; take a smaller one",
            path="tokenizer",
        )
    for path, value, usual in (
        ("latents.posterior", trial.latents.posterior, "sample"),
        ("latents.precision", trial.latents.precision, "fp32"),
    ):
        if value in ("moments", "bf16"):
            raise ConfigError(
                f"must be {usual} where latents are indices of codes, which have no variance and "
                f"are not rounded, but got {value}; leave it out",
                path=path,
            )


def _check_generator(trial: Trial, generator: GeneratorBase) -> None:
    given = trial.layout.kind
    if generator.draws == "latents" and generator.latents != given:
        raise ConfigError(
            f"must be a kind that generates {given}, the latents of tokenizer "
            f"{trial.tokenizer.name}, but {generator.kind!r} generates {generator.latents}; use "
            f"another generator, or a tokenizer with {generator.latents}",
            path="generator.kind",
        )
    try:
        generator.check(trial.layout)
    except ConfigError as error:
        raise error.within(path="generator") from error
    aligned, source = generator.token_alignment is not None, trial.latents.source
    if isinstance(source, LatentStatistics):
        _check_statistics_alone(generator, trial, source)
    reads_images = generator.reads_latents and source.kind != "statistics"
    if trial.evaluation.label_policy == "data" and not reads_images:
        raise ConfigError(
            "must be `balanced` or `random` where no training image is read, but is `data`; "
            "nothing says how often it has each class",
            path="evaluation.label_policy",
        )
    if generator.encoded_sides and source.kind != "encoded":
        raise ConfigError(
            "must be averages where latents are given, since no smaller image is encoded, but is "
            "images; leave it out, or leave out latents.source",
            path="generator.lower",
        )
    if aligned and isinstance(source, LatentFolder) and not source.features:
        raise ConfigError(
            "must be `none` with latents from a folder, whose order of images is not known here, "
            "but is repa; leave it out, encode the latents here (latents.source), or set "
            "latents.source.features where the folder holds them too",
            path="generator.repa",
        )
    if aligned and trial.latents.num_images is not None:
        raise ConfigError(
            "must be `none` where only a part of the images is encoded, but is repa; leave it out, "
            "or leave out latents.num_images",
            path="generator.repa",
        )
    sampler, asked = trial.evaluation.sampler, list[tuple[str, str, tuple[str, ...]]]()
    if generator.samplers:
        asked.append(("evaluation.sampler.kind", sampler.kind, generator.samplers))
    elif sampler != SamplerConfig():
        raise ConfigError(
            f"must be left out, because a generator of kind {generator.kind!r} draws by itself, "
            "but is given; its steps are its own settings",
            path="evaluation.sampler",
        )
    for number, guidance in enumerate(trial.evaluation.guidance):
        path = f"evaluation.guidance.{number}.kind"
        asked.append((path, guidance.kind, generator.guidances))
    for path, kind, able in asked:
        if kind not in able:
            raise ConfigError(
                f"must be one of {', '.join(able)}, all that a generator of kind "
                f"{generator.kind!r} can be sampled with, but got {kind!r}",
                path=path,
            )

    try:
        generator.check_sampler(sampler)
    except ConfigError as error:
        raise error.within(path="evaluation.sampler") from error

    # Without dropped labels the embedding of the null class keeps its random start.
    if getattr(generator, "class_dropout", None) == 0:
        for number, guidance in enumerate(trial.evaluation.guidance):
            if guidance.kind == "cfg":
                raise ConfigError(
                    "must not be cfg where generator.class_dropout is 0, since nothing is then "
                    "trained without a class; use none or autoguidance, or set "
                    "generator.class_dropout to 0.1",
                    path=f"evaluation.guidance.{number}.kind",
                )


def _check_statistics_alone(
    generator: GeneratorBase, trial: Trial, source: LatentStatistics
) -> None:
    if not generator.is_given:
        raise ConfigError(
            "must be `encoded` or `folder` where a generator is trained on the latents, but is "
            "`statistics`, which holds none; set generator.checkpoint, or give the latents",
            path="latents.source.kind",
        )
    indices = isinstance(trial.layout, IndexLayout)
    if indices and source.path is not None:
        raise ConfigError(
            f"must be left out where latents are indices, which are not normalised, but is "
            f"{source.path}; leave it out",
            path="latents.source.path",
        )
    if source.path is None and trial.tokenizer.scaling != "own" and not indices:
        raise ConfigError(
            "must name the file of mean and deviation (a published latents_stats.pt), because the "
            "tokenizer has no scaling of its own, but is absent; give it",
            path="latents.source.path",
        )


def _check_evaluation(trial: Trial) -> None:
    evaluation = trial.evaluation
    if trial.generator is None and evaluation.num_reconstructions == 0:
        raise ConfigError(
            "must be at least 2 in a trial without a generator, which measures reconstructions "
            "alone, but is 0; leave it out to take all images",
            path="evaluation.num_reconstructions",
        )
    classes = trial.data.num_classes
    if evaluation.label_policy == "balanced" and evaluation.num_images % classes:
        raise ConfigError(
            f"must be a multiple of the {classes} classes under label_policy balanced, but got "
            f"{evaluation.num_images}; use {-(-evaluation.num_images // classes) * classes}",
            path="evaluation.num_images",
        )
    # A network grades well what was trained to match it, whatever the images look like.
    for path, encoder in trial.encoders.items():
        part = path.partition(".")[0]
        if encoder == evaluation.extractor:
            raise ConfigError(
                f"must be another network than the one the {part} is aligned with, but is the "
                f"same; change its name or seed, or a {part} is graded by what it was trained to "
                "match",
                path="evaluation.extractor",
            )
    for number, guidance in enumerate(evaluation.guidance):
        if isinstance(guidance, ClassifierFreeGuidance | AutoGuidance) and isinstance(
            trial.layout, LatentLayout
        ):
            _check_guided_groups(guidance, trial.layout, f"evaluation.guidance.{number}")


def _check_guided_groups(
    guidance: ClassifierFreeGuidance | AutoGuidance, layout: LatentLayout, path: str
) -> None:
    try:
        guided_channels(guidance.channels, layout)
    except ValueError as error:
        raise ConfigError(str(error), path=f"{path}.channels") from error
    names = [group.name for group in layout.groups]
    for field in ("scale", "interval_start", "interval_end"):
        value = getattr(guidance, field)
        if isinstance(value, dict) and sorted(value) != sorted(names):
            raise ConfigError(
                f"must be one number, or one for each channel group of the latent "
                f"({', '.join(names)}), but got numbers for {', '.join(value) or 'none'}; name "
                "every group",
                path=f"{path}.{field}",
            )


def _check_encoders(trial: Trial) -> None:
    extractor = {"evaluation.extractor": trial.evaluation.extractor}
    for path, encoder in {**extractor, **trial.encoders}.items():
        try:
            encoder.check(trial.data.resolution)
        except ConfigError as error:
            raise error.within(path=path) from error


def _check_counts(trial: Trial) -> None:
    evaluation, data = trial.evaluation, trial.data
    encodes = not isinstance(trial.latents.source, LatentFolder)
    if encodes and data.num_train_images < data.num_classes:
        raise ConfigError(
            f"must be at most the {data.num_train_images} images of the training split, but is "
            f"{data.num_classes}; correct one of the two",
            path="data.num_classes",
        )
    for path, asked, available in (
        ("evaluation.num_reconstructions", evaluation.num_reconstructions, data.num_eval_images),
        ("evaluation.num_reference", evaluation.num_reference, data.num_train_images),
        ("latents.num_images", trial.latents.num_images, data.num_train_images),
    ):
        if asked is not None and asked > available:
            raise ConfigError(
                f"must be at most {available}, the images of its split, but got {asked}; lower it "
                "or leave it out to take all",
                path=path,
            )
    images = trial.latents.num_images or data.num_train_images
    held_out = 0 if trial.generator is None else trial.generator.num_held_out
    if held_out >= images:
        raise ConfigError(
            f"must leave some of the {images} latents to learn from, but holds out {held_out}; "
            "lower it or training.batch_size",
            path="generator.validation_batches",
        )
