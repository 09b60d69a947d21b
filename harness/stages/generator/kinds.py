"""What stages and benchmarks know of every kind of generator."""

from harness.config.generator import GENERATORS, GeneratorSettings
from harness.stages.generator import autoregressive, lightningdit
from harness.stages.generator.kind import GeneratorKind

GENERATORS.implement("lightningdit", lightningdit.KIND)
GENERATORS.implement("autoregressive", autoregressive.KIND)


def kind_of(config: GeneratorSettings) -> GeneratorKind:
    """Look up the kind of a configuration."""
    return GENERATORS.of(config)
