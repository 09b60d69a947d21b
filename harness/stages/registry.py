"""Name of a stage kind -> what the program knows of it, in the order of the data flow.

A further kind is a module of this package and one line here.
"""

from harness.stages import (
    diagnostics,
    generation,
    given_pairs,
    given_samples,
    latents,
    reconstruction,
    reference,
    scores,
)
from harness.stages.encoder import stage as encoder
from harness.stages.generator import stage as generator
from harness.stages.stage import StageKind
from harness.stages.tokenizer import stage as tokenizer

KINDS: dict[str, StageKind] = {
    "encoder": encoder.KIND,
    "reference": reference.KIND,
    "tokenizer": tokenizer.KIND,
    "reconstruction": reconstruction.KIND,
    "latents": latents.KIND,
    "diagnostics": diagnostics.KIND,
    "generator": generator.KIND,
    "generation": generation.KIND,
    "scores": scores.KIND,
    "given_samples": given_samples.KIND,
    "given_pairs": given_pairs.KIND,
}


def kinds_of_sweeps() -> tuple[str, ...]:
    """Names of the kinds of stages that sweeps have."""
    return tuple(name for name, kind in KINDS.items() if kind.in_sweeps)
