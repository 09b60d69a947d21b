"""What stages and benchmarks know of every kind of generator."""

from harness.config.generator import GENERATORS
from harness.config.generator_settings import GeneratorBase
from harness.stages.generator import autoregressive, lightningdit, lowdiff, python
from harness.stages.generator.kind import GeneratorKind

GENERATORS.implement("lightningdit", lightningdit.KIND)
GENERATORS.implement("autoregressive", autoregressive.KIND)
GENERATORS.implement("next_scale", autoregressive.KIND)
GENERATORS.implement("lowdiff", lowdiff.KIND)
GENERATORS.implement("python", python.KIND)


def kind_of(config: GeneratorBase) -> GeneratorKind:
    """Look up the kind of a configuration."""
    return GENERATORS.of(config, GeneratorKind)
