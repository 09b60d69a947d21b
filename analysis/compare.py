"""Two results side by side: `python -m analysis.compare A B [--out FILE.csv]`.

A and B are results folders of two sweeps, or of one sweep at two revisions. Rows are matched by
their configuration, averaged over seeds, and told apart by what changed beyond noise.
"""

import argparse
import signal
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells.cells import average_rows
from analysis.cells.lines import describe_lines
from analysis.outputs import path_at
from analysis.statistics.welch import LEVEL, count_by_chance, reach_by_chance
from analysis.table.columns import Column, measures_of
from analysis.table.protocols import list_some
from analysis.table.reading import concat_tables, load_table

EXIT_OK, EXIT_WRONG_REQUEST = 0, 2
OF_GENERATOR = ("generator_", "axis.generator.", "axis.latents.", "guidance", "label_policy")
"""How the columns begin that say of a generator what it is."""
CONFIGURATION = ("cell", "dataset", "resolution", "guidance", "generator_images")
"""Columns that match rows, after `describe_lines` has put every axis into the name of the cell."""
MAX_LISTED = 40
"""Lines listed under one heading at most; the CSV has them all."""
LEADING = ("gfid", "rfid")
"""Metrics listed first, however large the changes of others are."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Changes from one table to another."""

    changes: pd.DataFrame
    """One line a configuration and metric that both have: `CONFIGURATION`, `name`, `metric`,
    `first`, `first_se`, `first_seeds`, `second`, `second_se`, `second_seeds`, `change` (second
    less first), `relative` (over the first), `better` (yes, no or empty), `noise` (seeds;
    sampling where one row's sampling seeds stand in; empty where not known), `verdict` (changed,
    noise unknown, within noise, equal or unlike protocol)."""
    only_first: pd.DataFrame
    """Configurations done in one table only: `CONFIGURATION`, `name`, `reason`."""
    only_second: pd.DataFrame
    tokenizers_only: bool
    """One table has no generators, so that the tokenizers alone are compared."""

    def having(self, verdict: str) -> pd.DataFrame:
        """The changes of one verdict: `LEADING` first, then by size of the relative change."""
        mine = self.changes[self.changes["verdict"] == verdict]
        ranks = {metric: rank for rank, metric in enumerate(LEADING)}
        order = pd.DataFrame(
            {
                "rank": mine["metric"].map(ranks).fillna(len(LEADING)).astype(int),
                "size": -mine["relative"].astype(float).abs(),
            }
        )
        return mine.loc[order.sort_values(["rank", "size"], kind="stable").index]


def compare_tables(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """Compares the done rows of two tables.

    A change is beyond noise where it is larger than Welch's interval at `LEVEL` over seeds. With
    one row on a side the standard error over sampling seeds stands in for gfid, where the table has
    it, and otherwise the noise is unknown; equal numbers are equal either way.
    """
    tables = {"first": first, "second": second}
    both = concat_tables([table.assign(side=side) for side, table in tables.items()])
    tokenizers_only = len({table["generator_size"].notna().any() for table in tables.values()}) > 1
    if tokenizers_only:
        both = both.assign(**{name: None for name in both if str(name).startswith(OF_GENERATOR)})
        # One row of each, however many generators were trained on it.
        both = both.sort_values("status", key=lambda status: status != "done", kind="stable")
        both = both.drop_duplicates(["side", "tokenizer_key"])
    measures = measures_of(both)
    named, _ = describe_lines(both, apart=("side", "guidance", "protocol_hash"))
    named["name"] = _name_configurations(named)
    done = named[named["status"] == "done"].assign(sampling_se=named["gfid_se"])
    keys = [*CONFIGURATION, "name"]
    shared = ("protocol_hash", "reconstruction_protocol_hash", "sampling_se")
    # One type on both sides: a column that is empty everywhere would have another.
    done[keys] = done[keys].astype(object)
    averages = {s: average_rows(done[done["side"] == s], keys, first=shared) for s in tables}
    joined = averages["first"].merge(averages["second"], on=keys, suffixes=("|a", "|b"))
    changes = [_compare_metric(joined, name, measure) for name, measure in measures.items()]
    columns = changes[0].columns
    found = [part for part in changes if not part.empty]
    return Comparison(
        changes=pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns),
        only_first=_find_missing(averages["first"], averages["second"], named, "second"),
        only_second=_find_missing(averages["second"], averages["first"], named, "first"),
        tokenizers_only=tokenizers_only,
    )


def describe_comparison(comparison: Comparison, *, first: str, second: str) -> str:
    """Says in plain text what changed and what only one of both has."""
    changes = comparison.changes
    lines = [f"A = {first}", f"B = {second}"]
    if comparison.tokenizers_only:
        lines.append("One of both has no generators: the tokenizers alone are compared.")
    if changes.empty:
        lines.append("No configuration is done in both with a number to compare.")
    changed = comparison.having("changed")
    judged = int(changes["verdict"].isin(["changed", "within noise"]).sum())
    if judged:
        lines.append(
            f"Changed beyond noise ({LEVEL:.0%} intervals over seeds): {len(changed)} of {judged}"
            f" comparisons; chance alone would show about {count_by_chance(judged):.1f}."
        )
        if (changed["noise"] == "sampling").any():
            lines.append(
                "Where a side has one row, the noise is that of its sampling seeds alone: another"
                " training seed may differ by more."
            )
        lines += list_some(map(_say_change, changed.to_dict("records")), MAX_LISTED)
    unknown = comparison.having("noise unknown")
    if len(unknown):
        lines.append(
            f"Different, noise unknown (one seed on a side): {len(unknown)}. Whether these are"
            " changes cannot be said."
        )
        lines += list_some(map(_say_change, unknown.to_dict("records")), MAX_LISTED)
    for verdict in ("within noise", "equal"):
        if count := len(comparison.having(verdict)):
            lines.append(f"{verdict.capitalize()}: {count}.")
    unlike = comparison.having("unlike protocol")
    if len(unlike):
        lines.append(f"Not compared, since their protocols differ: {len(unlike)}.")
        lines += list_some(unlike["name"] + ": " + unlike["metric"], MAX_LISTED)
    for label, rows in (("A", comparison.only_first), ("B", comparison.only_second)):
        if len(rows):
            lines.append(f"Done only in {label}: {len(rows)}.")
            lines += list_some(rows["name"] + ": " + rows["reason"], MAX_LISTED)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 where it compared, 2 where the request or a table is wrong."""
    parser = argparse.ArgumentParser(prog="python -m analysis.compare", description=__doc__)
    parser.add_argument("first", type=path_at, metavar="A", help="results folder or table")
    parser.add_argument("second", type=path_at, metavar="B", help="results folder or table")
    parser.add_argument("--out", type=path_at, metavar="FILE.csv", help="where every number goes")
    request = parser.parse_args(arguments)
    try:
        comparison = compare_tables(load_table(request.first), load_table(request.second))
        if request.out is not None:
            request.out.parent.mkdir(parents=True, exist_ok=True)
            comparison.changes.to_csv(request.out.absolute(), index=False, lineterminator="\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    first, second = str(request.first), str(request.second)
    print(describe_comparison(comparison, first=first, second=second))
    if request.out is not None:
        print(f"wrote {request.out}")
    return EXIT_OK


def _name_configurations(rows: pd.DataFrame) -> pd.Series:
    """Names as brief as both tables allow: what is the same everywhere goes without saying."""
    names = rows["cell"].astype(object)
    for column, pattern in (
        ("dataset", ", {}"),
        ("resolution", ", {:g} px"),
        ("guidance", ", guidance {}"),
        ("generator_images", ", {:,.0f} images"),
    ):
        if rows[column].nunique(dropna=False) > 1:
            names = names + [
                "" if pd.isna(value) else pattern.format(value) for value in rows[column]
            ]
    return names


def _compare_metric(joined: pd.DataFrame, metric: str, measure: Column) -> pd.DataFrame:
    on_tokenizer = measure.of_tokenizer
    known = joined[joined[f"{metric}|a"].notna() & joined[f"{metric}|b"].notna()]
    count = "num_tokenizers" if on_tokenizer else "num_seeds"
    first, second = known[f"{metric}|a"], known[f"{metric}|b"]
    errors = (_estimate_error(known, metric, "a"), _estimate_error(known, metric, "b"))
    change = second - first
    counts = (known[f"{count}|a"], known[f"{count}|b"])
    noise = pd.Series(reach_by_chance(errors, counts), index=known.index)
    stands_in = known[f"{metric}_se|a"].isna() | known[f"{metric}_se|b"].isna()
    protocol = "reconstruction_protocol_hash" if on_tokenizer else "protocol_hash"
    alike = known[f"{protocol}|a"] == known[f"{protocol}|b"]
    verdict = np.select(
        [~alike, change == 0, ~np.isfinite(noise), change.abs() > noise],
        ["unlike protocol", "equal", "noise unknown", "changed"],
        default="within noise",
    )
    better = np.where((change < 0) == (measure.better == "lower"), "yes", "no")
    return known[[*CONFIGURATION, "name"]].assign(
        metric=metric,
        first=first,
        first_se=errors[0],
        first_seeds=known[f"{count}|a"],
        second=second,
        second_se=errors[1],
        second_seeds=known[f"{count}|b"],
        change=change,
        relative=change / first.abs().where(first != 0),
        better=np.where((change == 0) | ~alike, "", better),
        noise=np.select([~np.isfinite(noise), stands_in], ["", "sampling"], default="seeds"),
        verdict=verdict,
    )


def _estimate_error(known: pd.DataFrame, metric: str, side: str) -> pd.Series:
    """Standard error over seeds; over sampling seeds where there is one row with that of gfid."""
    error = known[f"{metric}_se|{side}"]
    if metric != "gfid":
        return error
    return error.where(error.notna(), known[f"sampling_se|{side}"])


def _find_missing(
    mine: pd.DataFrame, other: pd.DataFrame, named: pd.DataFrame, other_side: str
) -> pd.DataFrame:
    lost = mine[~mine["name"].isin(other["name"])][[*CONFIGURATION, "name"]]
    rest = named[(named["side"] == other_side) & (named["status"] != "done")]
    reasons = rest.assign(
        reason=rest["status"] + rest["error"].map(lambda e: f": {e}" if isinstance(e, str) else "")
    )
    by_name = reasons.drop_duplicates("name").set_index("name")["reason"]
    told = [by_name.get(name, "not in the other table") for name in lost["name"]]
    return lost.assign(reason=told).reset_index(drop=True)


def _say_change(row: dict[Hashable, Any]) -> str:
    sides = [
        f"{row[side]:.4g}" + (f" ± {row[f'{side}_se']:.2g}" if row[f"{side}_se"] > 0 else "")
        for side in ("first", "second")
    ]
    relative = f" ({row['relative']:+.1%})" if np.isfinite(row["relative"]) else ""
    direction = {"yes": "better", "no": "worse"}[row["better"]]
    return f"{row['name']}: {row['metric']} {sides[0]} -> {sides[1]}{relative}, {direction}"


if __name__ == "__main__":
    # Files are written before the words, so a reader that leaves, as `head` does, ends it quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
