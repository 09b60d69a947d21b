"""Staged training of a tokenizer: phases as data, and what is in force in each."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from models.alignment import NoAlignment, VFAlignment
from models.discriminator import DiscriminatorConfig
from models.tokenizer_loss import ImageLossConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerPhase:
    """One phase; it starts from all weights of the phase before, the loss networks' included, and
    goes on with its learning rate, order of images and random numbers."""

    steps: int
    """Optimiser steps of the autoencoder."""
    vf_weight: float | None = None
    """Weight of the alignment loss; absent: the alignment's own."""
    cos_margin: float | None = None
    """Margin of the cosine term, in units of cosine similarity; absent: the alignment's own."""
    distmat_margin: float | None = None
    """Margin of the distance-matrix term, in the same unit; absent: the alignment's own."""
    discriminator_start: int | None = None
    """First step with the adversarial terms, counted from the start of the phase, two a batch as
    published; absent: the discriminator's own `start_step`."""
    reset_optimizers: bool = True
    """Whether both optimisers forget their moments at the start of the phase (published)."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(
                f"`steps` of a phase must be at least 1, but got {self.steps}; leave the phase out"
            )

    @property
    def alignment_changes(self) -> dict[str, float]:
        """Fields of the alignment that the phase sets."""
        values = {
            name: getattr(self, name) for name in ("vf_weight", "cos_margin", "distmat_margin")
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class PhaseInForce:
    """Everything that is in force during one phase."""

    first_step: int
    """Step of the whole training at which the phase starts."""
    loss: ImageLossConfig
    alignment: NoAlignment | VFAlignment
    resets_optimizers: bool
    """Whether the optimisers start anew with it."""


def spell_out(
    phases: Sequence[TokenizerPhase],
    steps: int,
    loss: ImageLossConfig,
    alignment: NoAlignment | VFAlignment,
) -> tuple[PhaseInForce, ...]:
    """Spell the phases out; without any, the whole training is one."""
    if not phases:
        whole = PhaseInForce(first_step=0, loss=loss, alignment=alignment, resets_optimizers=False)
        return (whole,)
    total = sum(phase.steps for phase in phases)
    if total != steps:
        raise ValueError(
            f"the steps of `phases` must sum to `training.steps` = {steps}, but sum to {total}; "
            "change either"
        )
    first_steps = [sum(p.steps for p in phases[:number]) for number in range(len(phases))]
    return tuple(
        PhaseInForce(
            first_step=first,
            loss=_loss_in(phase, loss),
            alignment=_alignment_in(phase, alignment),
            resets_optimizers=first > 0 and phase.reset_optimizers,
        )
        for first, phase in zip(first_steps, phases, strict=True)
    )


def phase_at(schedule: Sequence[PhaseInForce], step: int) -> PhaseInForce:
    """The phase that a step of the whole training belongs to."""
    return [phase for phase in schedule if phase.first_step <= step][-1]


def _loss_in(phase: TokenizerPhase, loss: ImageLossConfig) -> ImageLossConfig:
    if phase.discriminator_start is None:
        return loss
    if not isinstance(loss.discriminator, DiscriminatorConfig):
        raise ValueError(
            f"`discriminator_start` of a phase needs a discriminator, but `loss.discriminator` is "
            f"{loss.discriminator.kind}; remove it, or set `loss.discriminator.kind` to patchgan"
        )
    started = dataclasses.replace(loss.discriminator, start_step=phase.discriminator_start)
    return dataclasses.replace(loss, discriminator=started)


def _alignment_in(
    phase: TokenizerPhase, alignment: NoAlignment | VFAlignment
) -> NoAlignment | VFAlignment:
    changes = phase.alignment_changes
    if not changes:
        return alignment
    if isinstance(alignment, NoAlignment):
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in changes)} of a phase need an alignment, but "
            "`alignment.kind` is none; remove them, or set `alignment.kind` to vf"
        )
    return dataclasses.replace(alignment, **changes)
