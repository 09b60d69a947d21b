"""What a plan needs and this machine lacks, found before anything starts."""

import secrets
from collections.abc import Iterable
from pathlib import Path

from harness.config.diffusers import DiffusersTokenizerConfig, missing_pretrained
from harness.config.reference import ReferenceImages, StatisticsFile
from harness.config.tokenizer import AnyTokenizerConfig
from harness.config.weights import missing_checkpoint, missing_lpips, missing_weights
from harness.data.latents.folder import LatentFolder
from harness.data.missing import MissingItem
from harness.plan.plan import Stage
from harness.schema.reading import ConfigError
from harness.stages.encoder import EncoderStage
from harness.stages.generator.stage import GeneratorStage
from harness.stages.given_pairs import GivenPairsStage
from harness.stages.given_samples import GivenSamplesStage
from harness.stages.latents import LatentsStage
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.reference import ReferenceStage
from harness.stages.tokenizer.stage import TokenizerStage
from harness.storage.durable import StorageError, replacing

ENCODER_PATHS = {
    "encoder": "tokenizer.alignment.encoder",
    "representation": "generator.repa.encoder",
    "extractor": "evaluation.extractor",
}
"""Name under which a stage reads an encoder -> key path of its configuration in the trial."""


def missing_items(stages: Iterable[Stage]) -> list[MissingItem]:
    """Data and weights that the stages read and that are not there, each named once."""
    stages = list(stages)
    roles = {
        needed.key: ENCODER_PATHS[name]
        for stage in stages
        for name, needed in stage.inputs.items()
        if name in ENCODER_PATHS
    }
    found: dict[str, MissingItem] = {}
    for stage in stages:
        for item in _missing(stage, roles.get(stage.key, "encoder")):
            found.setdefault(str(item), item)
    return list(found.values())


def fetch_missing(stages: Iterable[Stage]) -> None:
    """Download what is missing and has a usual address; the rest stays missing.

    Raises:
        ConfigError: A download failed, with its cause.
    """
    for item in missing_items(stages):
        if item.fetch is None:
            continue
        try:
            item.fetch()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{item.what} could not be fetched ({error}); {item.remedy}", path="--download"
            ) from error


def _missing(stage: Stage, encoder_path: str) -> list[MissingItem]:
    config = stage.config
    items: list[MissingItem] = []
    data = getattr(config, "data", None)
    elsewhere = isinstance(config, ReferenceStage | LatentsStage) and config.content
    if data is not None and not elsewhere:
        items += data.missing()
    if isinstance(config, EncoderStage):
        items += missing_weights(config.encoder, encoder_path)
    if isinstance(config, TokenizerStage):
        items += _missing_for(config.tokenizer)
    if isinstance(config, GeneratorStage):
        given = config.generator.checkpoint
        items += missing_checkpoint("the generator's weights", given, "generator.checkpoint")
    if isinstance(config, LatentsStage) and isinstance(config.latents.source, LatentFolder):
        items += config.latents.source.missing()
    if isinstance(config, ReferenceStage):
        items += _missing_reference(config)
    if isinstance(config, GivenSamplesStage):
        items += config.samples.missing()
    if isinstance(config, GivenPairsStage):
        items += config.originals.missing() + config.reconstructions.missing()
    if isinstance(config, ReconstructionStage | GivenPairsStage):
        items += missing_lpips(config.perceptual, "evaluation.perceptual")
    return items


def _missing_reference(config: ReferenceStage) -> list[MissingItem]:
    if isinstance(config.source, StatisticsFile):
        path = "evaluation.reference.path"
        return missing_checkpoint("the reference statistics", config.source.path, path)
    return config.source.images.missing() if isinstance(config.source, ReferenceImages) else []


def _missing_for(tokenizer: AnyTokenizerConfig) -> list[MissingItem]:
    if isinstance(tokenizer, DiffusersTokenizerConfig):
        return missing_pretrained(tokenizer)
    if tokenizer.checkpoint is None:
        return missing_lpips(tokenizer.loss.perceptual, "tokenizer.loss.perceptual")
    return missing_checkpoint(
        "the tokenizer's weights", tokenizer.checkpoint, "tokenizer.checkpoint"
    )


def writable_error(folder: Path) -> str:
    """Why nothing can be written below a folder, or an empty text."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Another driver may look at the same time; a full disk has room for names, not for content.
        probe = folder / f".writable-{secrets.token_hex(4)}"
        with replacing(probe) as temporary:
            temporary.write_bytes(bytes(4096))
        probe.unlink()
    except StorageError as error:
        return f"nothing was started: {error}"
    except OSError as error:
        return (
            f"{folder} must be a folder that can be written, but is not ({error.strerror}); make "
            "it writable, or give another --store and --results"
        )
    return ""
