"""A search's trials: their front, hypervolume, a recommendation, and what repetitions say of it.

Reads what `python -m harness.tune` leaves in a results folder: `study.json` (objectives, axes),
`trials.csv` (one line a proposal), and the folders of repeated settings, each with a results table
and `settings.csv` (trial -> setting and seed).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.hypervolume import choose_reference, compute_hypervolume
from analysis.statistics.pareto import pareto_mask
from analysis.table.reading import find_stored, load_table

NEAR_BEST_SHARE = 0.25
"""Share of the measured trials whose spread is shown beside a recommendation, at least three."""
LEAST_IN_RANGE = 3
DECIDED_AT = 2.0
"""Standard errors by which two means differ where their order counts as known."""

TEXTS = ("name", "status", "feasible", "sampler", "trial_id", "row_id", "setting_hash", "error")
"""Columns of `trials.csv` that hold text, whatever it looks like."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """A search as its results folder tells it."""

    name: str
    table: pd.DataFrame
    """One line a proposal: `trial`, `name`, `status`, `feasible`, `trial_id`, `setting_hash`, the
    objectives' columns, `search.<axis>` for every axis, and `condition.<axis>` for an axis of
    several domains: the condition of the domain in force."""
    objectives: tuple[str, ...]
    maximised: tuple[bool, ...]
    caps: tuple[str, ...]
    references: tuple[str, ...]
    """Names of the first trials; others are compared with the first of them."""
    scales: dict[str, str]
    """Axis -> `log`, `linear` or `choices`."""
    distance_name: str
    setting: str
    repeated: tuple[str, ...]
    """Folders of repeated settings that the tune file asks for."""

    @property
    def measured(self) -> pd.DataFrame:
        """Trials that were measured and keep to every cap."""
        return self.table[(self.table["status"] == "done") & self.table["feasible"]]

    def costs(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Objectives of some trials with lower as better everywhere, shape (trials, objectives)."""
        signs = np.where(self.maximised, -1.0, 1.0)
        return table[list(self.objectives)].to_numpy(dtype=float) * signs


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One setting out of the front, and how sure that is."""

    trial: int
    name: str
    """Name of a first trial, or `trial` and its number."""
    values: dict[str, float]
    """Objective -> value in the search, of one seed and chosen as the best: too good on average."""
    ranges: dict[str, str]
    """Axis -> value, and where the near trials have it."""
    num_near: int
    """Trials with the best scores, among which the ranges are taken."""
    num_measured: int


def load_trials(results: Path) -> Trials:
    """Reads a search; ValueError where a file is missing or lacks a column."""
    try:
        about = json.loads((results / "study.json").read_text(encoding="utf-8"))
        # A hash of digits alone is text too.
        texts = dict.fromkeys(TEXTS, "str")
        table = pd.read_csv(
            results.absolute() / "trials.csv", keep_default_na=False, na_values=[""], dtype=texts
        )
        columns = [objective["column"] for objective in about["objectives"]]
        needed = ["trial", "name", "status", "feasible", "trial_id", "setting_hash", *columns]
        if missing := [column for column in needed if column not in table.columns]:
            raise ValueError(f"trials.csv lacks the columns {', '.join(missing)}")
        table = table.assign(
            feasible=table["feasible"] == "yes",
            name=table["name"].astype(object).where(table["name"].notna(), "").astype(str),
        )
        return Trials(
            name=about["name"],
            table=table.sort_values("trial").reset_index(drop=True),
            objectives=tuple(columns),
            maximised=tuple(objective["maximised"] for objective in about["objectives"]),
            caps=tuple(about["caps"]),
            references=tuple(about["references"]),
            scales=dict(about["scales"]),
            distance_name=about["distance_name"] or "Fréchet distance",
            setting=about["setting"],
            repeated=tuple(about["repeated"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{results} must hold study.json and trials.csv of a search, but reading them gave:"
            f" {reason}; run the search again"
        ) from error


def compute_front(trials: Trials) -> pd.DataFrame:
    """The measured trials with `on_front`: whether no other measured trial dominates them."""
    measured = trials.measured
    return measured.assign(on_front=pareto_mask(trials.costs(measured)))


def reference_point(trials: Sequence[Trials]) -> NDArray[np.float64]:
    """A point beyond the worst measured value of every objective over some searches, as costs."""
    return choose_reference(np.concatenate([one.costs(one.measured) for one in trials]))


def compute_hypervolumes(trials: Trials, reference: NDArray[np.float64]) -> pd.DataFrame:
    """Hypervolume of all trials up to each one: columns `trial` and `hypervolume`."""
    measured = trials.measured
    costs, numbers = trials.costs(measured), measured["trial"].to_numpy()
    volumes = [compute_hypervolume(costs[numbers <= n], reference) for n in trials.table["trial"]]
    return pd.DataFrame({"trial": trials.table["trial"], "hypervolume": volumes})


def compute_scores(trials: Trials, table: pd.DataFrame) -> NDArray[np.float64]:
    """One number a trial, lower is better: the mean over objectives of its logarithm.

    A difference of 0.1 is 10% in the geometric mean of the objectives, whatever their scales.
    Where a value is not positive, deviations from the mean in standard deviations stand in.
    """
    values = table[list(trials.objectives)].to_numpy(dtype=float)
    signs = np.where(trials.maximised, -1.0, 1.0)
    if (values > 0).all():
        return (np.log(values) * signs).mean(axis=1)
    deviation = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
    return ((values - values.mean(axis=0)) / deviation * signs).mean(axis=1)


def recommend(trials: Trials) -> Recommendation | None:
    """The front's trial of the best score, or None where nothing was measured."""
    front = compute_front(trials)
    if front.empty:
        return None
    front = front.assign(score=compute_scores(trials, front)).sort_values(["score", "trial"])
    best = front[front["on_front"]].iloc[0]
    near = front.head(max(3, round(NEAR_BEST_SHARE * len(front))))
    return Recommendation(
        trial=int(best["trial"]),
        name=setting_name(best),
        values={column: float(best[column]) for column in trials.objectives},
        ranges={axis: _spread(best, near, axis, scale) for axis, scale in trials.scales.items()},
        num_near=len(near),
        num_measured=len(front),
    )


def _spread(best: pd.Series, near: pd.DataFrame, axis: str, scale: str) -> str:
    column, condition = f"search.{axis}", f"condition.{axis}"
    if column not in near.columns or pd.isna(best[column]):
        return "not in force"
    if scale == "choices":
        counts = near[column].dropna().astype(str).value_counts()
        words = ", ".join(f"{value} {count} of {len(near)}" for value, count in counts.items())
        return f"{best[column]} ({words})"
    # Numbers under another condition lie on another scale.
    alike = near[near[condition] == best[condition]] if condition in near.columns else near
    known = alike[column].dropna()
    if len(known) < LEAST_IN_RANGE:
        return f"{best[column]:.3g}"
    return f"{best[column]:.3g} ({known.min():.3g} to {known.max():.3g} in {len(known)} of them)"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Settings that were run again under several seeds."""

    rows: pd.DataFrame
    """One line a run: `setting`, `seed` and the objectives, rows that are not done left out."""
    objectives: tuple[str, ...]

    def summary(self) -> pd.DataFrame:
        """Setting -> `<objective>`, `<objective>_se` (NaN with one seed) and `num_seeds`."""
        grouped = self.rows.groupby("setting", sort=False)
        columns: dict[str, Any] = {}
        for column in self.objectives:
            columns[column] = grouped[column].mean()
            columns[f"{column}_se"] = grouped[column].sem()
        return pd.DataFrame({**columns, "num_seeds": grouped.size()})

    def change(self, setting: str, reference: str, column: str) -> tuple[float, float, int]:
        """Relative change of an objective against a reference over the seeds that both have.

        Returns:
            Mean ratio less one, its standard error (NaN with one seed), and the number of seeds.
        """
        values = self.rows.pivot_table(index="seed", columns="setting", values=column)
        if setting not in values.columns or reference not in values.columns:
            return float("nan"), float("nan"), 0
        ratio = (values[setting] / values[reference] - 1).dropna()
        return float(ratio.mean()), float(ratio.sem()) if len(ratio) > 1 else np.nan, len(ratio)


def load_repetitions(results: Path, trials: Trials) -> dict[str, Repeated]:
    """Reads the repeated settings that the tune file asks for and that have been run, by folder.

    Settings that are not among the search's trials, left by an earlier search in the same folder,
    are left out.
    """
    folders = [results / kind for kind in trials.repeated]
    found = {folder.name: _load_repeated(folder, trials) for folder in folders if _is_run(folder)}
    return {kind: repeated for kind, repeated in found.items() if len(repeated.rows)}


def _is_run(folder: Path) -> bool:
    return (folder / "settings.csv").is_file() and find_stored(folder, "table") is not None


def _load_repeated(folder: Path, trials: Trials) -> Repeated:
    table = load_table(folder)
    known = {str(row["setting_hash"]): setting_name(row) for _, row in trials.table.iterrows()}
    try:
        settings = pd.read_csv(folder.absolute() / "settings.csv", dtype=str)
        settings = settings.astype({"seed": int})
        # What a setting stands for tells which it is; its name may be that of another by now.
        settings = settings.assign(setting=settings["setting_hash"].map(known))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} must hold settings.csv with seed and setting_hash, but reading it gave:"
            f" {error!r}; delete {folder} and run the command again"
        ) from error
    done = table[table["status"] == "done"].drop(columns="seed")
    # The last snapshot and the first guidance setting, as in the search. A tokenizer alone has no
    # snapshots.
    images = done["generator_images"].fillna(0)
    done = done[images == images.groupby(done["trial_id"]).transform("max")]
    rows = settings.dropna().merge(done.drop_duplicates("trial_id"), on="trial_id")
    rows = rows.dropna(subset=list(trials.objectives))
    return Repeated(rows=rows, objectives=trials.objectives)


@dataclass(frozen=True, kw_only=True)
class Order:
    """Whether the search's order of the settings holds at full budget, for one objective."""

    column: str
    points: pd.DataFrame
    """Setting -> `proxy`, `full` and `full_se`."""
    tau: float
    """Kendall's rank correlation; NaN with fewer than three settings."""
    reversed_pairs: int
    """Pairs of settings that are in the opposite order at full budget beyond their noise."""
    kept_pairs: int
    undecided_pairs: int
    """Pairs whose means differ by less than `DECIDED_AT` standard errors, or that are equal in the
    search, or of a setting with one seed."""

    @property
    def num_pairs(self) -> int:
        """All pairs."""
        return self.reversed_pairs + self.kept_pairs + self.undecided_pairs

    @property
    def words(self) -> str:
        """`2 of 3 pairs kept, 0 reversed, 1 undecided`."""
        return (
            f"{self.kept_pairs} of {self.num_pairs} pairs kept, {self.reversed_pairs} reversed, "
            f"{self.undecided_pairs} undecided"
        )


def compute_orders(trials: Trials, promoted: Repeated) -> list[Order]:
    """Compares the order of the promoted settings in the search and at full budget."""
    full = promoted.summary()
    table = trials.table.assign(setting=[setting_name(row) for _, row in trials.table.iterrows()])
    proxy = table.drop_duplicates("setting").set_index("setting")
    orders = []
    for column in trials.objectives:
        points = pd.DataFrame(
            {"proxy": proxy[column], "full": full[column], "full_se": full[f"{column}_se"]}
        ).dropna(subset=["proxy", "full"])
        products = _pair_products(points)
        tau = float("nan")
        if len(points) >= 3:
            result: Any = stats.kendalltau(points["proxy"], points["full"])
            tau = float(result.statistic)
        orders.append(
            Order(
                column=column,
                points=points,
                tau=tau,
                reversed_pairs=int((products < 0).sum()),
                kept_pairs=int((products > 0).sum()),
                undecided_pairs=int((products == 0).sum()),
            )
        )
    return orders


def _pair_products(points: pd.DataFrame) -> NDArray[np.float64]:
    """For every pair: 1 where its order holds, -1 where it is reversed, 0 where noise hides it."""
    first, second = np.triu_indices(len(points), k=1)
    proxy, full, error = (points[name].to_numpy() for name in ("proxy", "full", "full_se"))
    difference = full[first] - full[second]
    # One seed has no standard error: the comparison is false.
    decided = np.abs(difference) > DECIDED_AT * np.hypot(error[first], error[second])
    return np.sign(proxy[first] - proxy[second]) * np.where(decided, np.sign(difference), 0.0)


def setting_name(row: Any) -> str:
    """Name or number of a trial, as sweeps of repeated settings call it."""
    return str(row["name"]) or f"trial {row['trial']}"
