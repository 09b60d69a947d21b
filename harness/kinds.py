"""What an author of kinds imports: the open sets, their contracts, and the pieces ours are made of.

A kind is a frozen dataclass, the block of the sweep file, and what stages know of it. A module adds
its kinds when it is imported, and a sweep file names that module under `plugins`:

    TOKENIZERS.add("mine", MyConfig, TokenizerKind(stage=..., build=..., make=..., load=...))

`sweeps/examples/my_kind.py` is a whole one. `python -m harness.check SWEEP` runs it small and says
what does not hold. Code that is trained already needs no kind: `kind: python` takes it as it is.
"""

from harness.config.encoders import (
    ENCODERS,
    EXTRACTORS,
    AlignmentEncoder,
    EncoderSettings,
    MetricExtractor,
)
from harness.config.generator import GENERATORS, GeneratorSettings
from harness.config.generator_settings import GeneratorBase
from harness.config.regularizers import REGULARIZERS
from harness.config.samplers import SAMPLERS
from harness.config.tokenizer import TOKENIZERS
from harness.config.tokenizer_settings import TokenizerDefaults, TokenizerSettings
from harness.config.training import TrainingConfig
from harness.config.trial import Trial
from harness.data import DATASETS, DataConfig, open_dataset
from harness.data.dataset import DatasetConfig, ImageDataset
from harness.data.missing import MissingItem
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.machine.random_streams import derive_seed, generator_for
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY
from harness.schema.kinds import Kinds
from harness.stages.encoder.kind import EncoderKind, EncoderStage, Place
from harness.stages.generator.kind import GeneratorKind, GeneratorStage
from harness.stages.running.context import StageContext
from harness.stages.tokenizer.kind import TokenizerKind, TokenizerStage
from harness.storage.artifacts import Artifact, write_tensors
from models.foundation import EncoderNetwork, EncoderOutputs
from models.latent import AnyLayout, IndexLayout, LatentLayout
from models.posterior import IndexPosterior, PointPosterior, Posterior
from models.regularizers.contract import AdamWConfig, Regularizer, RegularizerConfig
from models.tokenizer import TokenizerNetwork

__all__ = [
    "DATASETS",
    "ENCODERS",
    "EXTRACTORS",
    "GENERATORS",
    "KEY_UNLESS_DEFAULT",
    "NO_KEY",
    "REGULARIZERS",
    "SAMPLERS",
    "TOKENIZERS",
    "AdamWConfig",
    "AlignmentEncoder",
    "AnyLayout",
    "Artifact",
    "BatchStream",
    "DataConfig",
    "DatasetConfig",
    "EncoderKind",
    "EncoderNetwork",
    "EncoderOutputs",
    "EncoderSettings",
    "EncoderStage",
    "GeneratorBase",
    "GeneratorKind",
    "GeneratorSettings",
    "GeneratorStage",
    "ImageDataset",
    "IndexLayout",
    "IndexPosterior",
    "Kinds",
    "LatentLayout",
    "MetricExtractor",
    "MissingItem",
    "Place",
    "PointPosterior",
    "Posterior",
    "Regularizer",
    "RegularizerConfig",
    "StageContext",
    "TokenizerDefaults",
    "TokenizerKind",
    "TokenizerNetwork",
    "TokenizerSettings",
    "TokenizerStage",
    "TrainingConfig",
    "Trial",
    "derive_seed",
    "generator_for",
    "open_dataset",
    "to_model_range",
    "write_tensors",
]
