"""Functions that are repeated, as variants of one thing: a row for each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from harness.benchmarks.measuring import Bench
from harness.benchmarks.rows import Row
from harness.benchmarks.turns import Pause, built
from harness.benchmarks.variants import Variant

Maker = Callable[[], Callable[[], object]]
"""Makes what is timed, in the thread in which it runs."""


def timed(
    bench: Bench,
    row: Row,
    variants: Sequence[Variant],
    makers: Mapping[str, Maker],
    flops: Mapping[str, float],
    *,
    convolutions: Mapping[str, float] | None = None,
    together: bool | None = None,
) -> list[Row]:
    """A row a variant; the first is the one that others are held to.

    Args:
        bench: How to measure.
        row: What is common to the rows.
        variants: The variants.
        makers: Of each by name, what makes its function.
        flops: Of each, operations an image where they are counted.
        convolutions: Of each, the share of these that are convolutions; None: they are none.
        together: Whether they take turns; None: as everywhere in this run.
    """
    rows = []
    for variant in variants:
        named = dataclasses.replace(row, variant=variant.name)
        if variant.name in flops:
            share = (convolutions or {}).get(variant.name, 0.0)
            named = bench.with_peak(named, variant.precision, flops[variant.name], share)
        rows.append(named)
    return bench.compare(rows, lambda name: _on_threads(bench, makers[name]), together=together)


def _on_threads(bench: Bench, make: Maker) -> Callable[[Pause], None]:
    def work(pause: Pause) -> None:
        # Each Python thread has a number of its own.
        torch.set_num_threads(bench.threads)
        built(make)(pause)

    return work
