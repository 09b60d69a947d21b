"""Integrators of the velocity field from noise (t = 0) to data (t = 1).

A solver walks along global time; a clock says where each channel group is then. Time is a number on
the host, so a solver's schedule never waits for the device. Memory does not grow with the number of
steps: only the current state is kept.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from models.clock import Clock, GroupTimes, SharedClock
from models.latent import LatentLayout

VelocityFunction = Callable[[Float[Tensor, "b c h w"], GroupTimes], Float[Tensor, "b c h w"]]
"""Velocity of a state, for each channel by its group's own time, at these times in [0, 1]."""
ARRIVED = 1e-6
"""Time before data below which a group has arrived: grids are float32."""
_Field = Callable[[Float[Tensor, "b c h w"], float], Float[Tensor, "b c h w"]]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Solver and its time grid; the defaults are the published system's."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["euler", "heun", "dopri5", "ab2", "dpmpp_2m"] = "euler"
    """Solver: fixed-step Euler or Heun, adaptive Dormand-Prince 5(4), or two steps of second order
    at one evaluation each: Adams-Bashforth on the velocity, and DPM-Solver++(2M) on the predicted
    data (arXiv 2211.01095)."""
    num_steps: int = 250
    """Points of the time grid, both ends included: 250 means 249 steps; unused by dopri5."""
    timestep_shift: float = 0.3
    """Shift s of the grid, t = s u / (1 + (s - 1) u); 0 switches it off, unused by dopri5."""
    atol: float = 1e-6
    """Absolute tolerance of dopri5."""
    rtol: float = 1e-3
    """Relative tolerance of dopri5."""
    group_ends: Literal["masked", "exact"] = field(
        default="masked", metadata={"key": "unless_default"}
    )
    """How groups move that start and stop at times of their own. `masked`, as Semantic-First
    Diffusion is released: over a whole step or not at all, by the time at its start, so that a
    group passes more or less than its whole time by up to a step; `exact`: in each step by what
    passes of its own time, and dopri5 piece by piece between the starts and stops."""

    def __post_init__(self) -> None:
        if self.num_steps < 2:
            raise ValueError(
                f"`num_steps` must be at least 2 grid points (one step), but got "
                f"{self.num_steps}; use a larger number"
            )
        if self.timestep_shift < 0 or min(self.atol, self.rtol) <= 0:
            raise ValueError(
                f"`timestep_shift` must not be negative and tolerances must be positive, but got "
                f"shift {self.timestep_shift}, atol {self.atol}, rtol {self.rtol}; "
                "use shift 0 to switch it off"
            )

    @property
    def num_function_evaluations(self) -> int | None:
        """Velocity evaluations per sample; absent for dopri5, which chooses its steps."""
        if self.kind == "dopri5":
            return None
        return (2 if self.kind == "heun" else 1) * (self.num_steps - 1)


def time_grid(config: SamplerConfig, horizon: float = 1.0) -> Float[Tensor, " n"]:
    """Grid from 0 to the horizon, in float32: uniform, then shifted (to noise, below 1)."""
    uniform = torch.linspace(0.0, horizon, config.num_steps)
    shift = config.timestep_shift
    if shift == 0:
        return uniform
    share = uniform / horizon
    return horizon * (shift * share / (1 + (shift - 1) * share))


def sample(
    velocity_fn: VelocityFunction,
    noise: Float[Tensor, "b c h w"],
    config: SamplerConfig,
    layout: LatentLayout,
    clock: Clock | None = None,
) -> Float[Tensor, "b c h w"]:
    """Carry noise to data along the velocity field, without gradients.

    With dopri5 the step sizes, and so the result, depend on the whole batch, and the field may be
    evaluated slightly beyond the horizon.

    Args:
        clock: times of the groups; absent: all are at the global time, up to 1.

    Raises:
        ValueError: if the noise does not have the layout's shape.
    """
    if tuple(noise.shape[1:]) != layout.shape:
        raise ValueError(
            f"noise must have the latent's shape {layout.shape}, but got "
            f"{tuple(noise.shape[1:])}; draw it with the tokenizer's layout"
        )
    clock = clock or SharedClock(layout.num_groups)

    def masked(state: Float[Tensor, "b c h w"], now: float) -> Float[Tensor, "b c h w"]:
        # By the chain rule: a group moves with its velocity times its clock's rate.
        return layout.scale(velocity_fn(state, clock.times(now)), clock.rates(now))

    def exact(start: float, end: float) -> _Field:
        """The field over a step or piece, in which all of a group's own time passes."""
        begun, ended = clock.times(start), clock.times(end)
        rates = [(b - a) / (end - start) for a, b in zip(begun, ended, strict=True)]

        def field(state: Float[Tensor, "b c h w"], now: float) -> Float[Tensor, "b c h w"]:
            # dopri5 may look beyond the end, where a group that stands here would have started.
            each = zip(clock.times(now), begun, rates, strict=True)
            times = tuple(own if rate else still for own, still, rate in each)
            return layout.scale(velocity_fn(state, times), rates)

        return field

    is_exact = config.group_ends == "exact"
    if config.kind in ("ab2", "dpmpp_2m"):
        with torch.no_grad():
            return _multistep(velocity_fn, noise, config, layout, clock)
    if config.kind == "dopri5":
        step = partial(_adaptive_piece, config=config)
        ends = clock.corners if is_exact else (0.0, clock.horizon)
    else:
        step = _euler_step if config.kind == "euler" else _heun_step
        ends = time_grid(config, clock.horizon).tolist()
    state = noise
    with torch.no_grad():
        for start, end in pairwise(ends):
            state = step(exact(start, end) if is_exact else masked, state, start, end)
    return state


def _euler_step(
    field: _Field, state: Float[Tensor, "b c h w"], start: float, end: float
) -> Float[Tensor, "b c h w"]:
    return state + (end - start) * field(state, start)


def _heun_step(
    field: _Field, state: Float[Tensor, "b c h w"], start: float, end: float
) -> Float[Tensor, "b c h w"]:
    first = field(state, start)
    second = field(state + (end - start) * first, end)
    return state + 0.5 * (end - start) * (first + second)


def _multistep(
    velocity_fn: VelocityFunction,
    state: Float[Tensor, "b c h w"],
    config: SamplerConfig,
    layout: LatentLayout,
    clock: Clock,
) -> Float[Tensor, "b c h w"]:
    """Extrapolate from this step's and the last one's evaluation, each group by its own time.

    Adams-Bashforth takes velocity as linear in time. DPM-Solver++(2M) takes the predicted data as
    linear in the logarithm of signal over noise, which is infinite at both ends, so that its first,
    second and last steps are Euler's, which is what it is without extrapolation.
    """
    by_data = config.kind == "dpmpp_2m"
    last: Tensor | None = None
    before: list[tuple[float, float]] = []
    for start, end in pairwise(time_grid(config, clock.horizon).tolist()):
        begun, ended = clock.times(start), clock.times(end)
        if config.group_ends == "masked":
            rates = clock.rates(start)
            ended = tuple(b + rate * (end - start) for b, rate in zip(begun, rates, strict=True))
        spans = list(zip(begun, ended, strict=True))
        velocity = velocity_fn(state, begun)
        known = state + layout.scale(velocity, [1 - t for t in begun]) if by_data else velocity
        moved = velocity
        if last is not None:
            shares = [_extrapolation(*pair, by_data) for pair in zip(before, spans, strict=True)]
            moved = velocity + layout.scale(known - last, shares)
        state = state + layout.scale(moved, [after - own for own, after in spans])
        last, before = known, spans
    return state


def _extrapolation(last: tuple[float, float], span: tuple[float, float], by_data: bool) -> float:
    """The factor on the difference of two evaluations, in units of velocity.

    It is 0 for a group that did not move in the last step, whose evaluation then says nothing of
    how velocity changes.
    """
    (begun, ended), (earlier, _) = span, last
    if last[1] <= earlier or ended <= begun:
        return 0.0
    if not by_data:
        return (ended - begun) / (2 * (begun - earlier))
    if earlier <= 0.0 or ended > 1.0 - ARRIVED:
        return 0.0
    first, here, there = (math.log(t / (1 - t)) for t in (earlier, begun, ended))
    # Half the ratio of steps, for the data; its weight in a step of velocity is 1 / (1 - t).
    return (there - here) / (2 * (here - first)) / (1 - begun)


def _adaptive_piece(
    field: _Field, state: Float[Tensor, "b c h w"], start: float, end: float, config: SamplerConfig
) -> Float[Tensor, "b c h w"]:
    from torchdiffeq import odeint  # It brings SciPy, which takes half a second.

    path = odeint(
        lambda time, state: field(state, time.item()),
        state,
        torch.tensor([start, end], device=state.device),
        method="dopri5",
        atol=config.atol,
        rtol=config.rtol,
    )
    assert isinstance(path, Tensor)
    return path[-1]
