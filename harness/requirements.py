"""What a plan needs and this machine lacks, found before anything starts."""

from collections.abc import Iterable
from pathlib import Path

from harness.data.missing import MissingItem
from harness.plan import Stage
from harness.pretrained import DiffusersTokenizerConfig
from harness.stages.encoder import EncoderStage
from harness.stages.generator import GeneratorStage
from harness.stages.pretrained import missing_pretrained
from harness.stages.reconstruction import ReconstructionStage
from harness.stages.tokenizer import TokenizerStage
from harness.stages.weights import missing_checkpoint, missing_lpips, missing_weights
from harness.trial import AnyTokenizerConfig

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


def _missing(stage: Stage, encoder_path: str) -> list[MissingItem]:
    config = stage.config
    items: list[MissingItem] = []
    data = getattr(config, "data", None)
    if data is not None:
        items += data.missing()
    if isinstance(config, EncoderStage):
        items += missing_weights(config.encoder, encoder_path)
    if isinstance(config, TokenizerStage):
        items += _missing_for(config.tokenizer)
    if isinstance(config, GeneratorStage):
        given = config.generator.checkpoint
        items += missing_checkpoint("the generator's weights", given, "generator.checkpoint")
    if isinstance(config, ReconstructionStage):
        items += missing_lpips(config.perceptual, "evaluation.perceptual")
    return items


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
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{folder} must be a folder that can be written, but is not ({error.strerror})"
    return ""
