"""Stage kind -> its version and `run` function, in the order of the data flow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.stages import (
    diagnostics,
    encoder,
    generation,
    given_pairs,
    given_samples,
    latents,
    reconstruction,
    reference,
)
from harness.stages.generator import stage as generator
from harness.stages.running.context import StageContext
from harness.stages.tokenizer import stage as tokenizer


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """One kind of work."""

    version: int
    """Numerics version: part of every key of this kind."""
    run: Callable[[Any, StageContext], Mapping[str, Any]]
    """Writes the payload and returns the numbers of the stage."""


KINDS: dict[str, StageKind] = {
    name: StageKind(version=module.VERSION, run=module.run)
    for name, module in {
        "encoder": encoder,
        "reference": reference,
        "tokenizer": tokenizer,
        "reconstruction": reconstruction,
        "latents": latents,
        "diagnostics": diagnostics,
        "generator": generator,
        "generation": generation,
        "given_samples": given_samples,
        "given_pairs": given_pairs,
    }.items()
}
