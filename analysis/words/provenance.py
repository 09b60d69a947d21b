"""Where a table comes from: commands, versions and cost, from its manifest and its columns."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.table.protocols import join_unique

ANALYSIS_PACKAGES = ("numpy", "pandas", "scipy", "matplotlib", "seaborn")
STAGES = (
    ("tokenizer training", "tokenizer_key", "tokenizer_s"),
    ("generator training", "generator_key", "generator_s"),
    ("sampling and its metrics", "generation_key", "generation_s"),
)
FACTS = {
    "revision of the code": "git_revision",
    "made on": "device",
    "version of the table's schema": "schema_version",
    "provenance of the weights": "provenance",
}
"""Columns of which the page shows all values, by what it calls them."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a table was made."""

    facts: list[tuple[str, str]]
    """Name and value: commands, revisions, versions, machines."""
    costs: list[tuple[str, int, float, float]]
    """Stages of one kind: name, count, seconds (NaN unknown), FLOPs (NaN unknown)."""
    cost_source: str
    """Sources of the costs, and what is not in them."""


def trace_table(table: pd.DataFrame, results_dirs: Sequence[Path]) -> Provenance:
    """Collects what is known of how a table was made, from it and its folders' `manifest.json`."""
    manifests = {folder: _read_manifest(folder) for folder in results_dirs}
    facts = [fact for each in manifests.items() for fact in _list_manifest(*each)]
    known = [(name, join_unique(table[column])) for name, column in FACTS.items()]
    earlier = [path for folder in results_dirs for path in folder.glob("earlier/*/report.html")]
    facts += [("earlier table", str(path)) for path in sorted(earlier)]
    facts += [*filter(itemgetter(1), known), ("this page", _describe_analysis())]
    stages = [stage for manifest in manifests.values() for stage in _list_stages(manifest)]
    if stages:
        source = "manifest: each stage counts once; FLOPs are estimates"
        return Provenance(facts=facts, costs=_sum_stages(stages), cost_source=source)
    source = "table: each artifact counts once; FLOPs of shared stages are not told apart"
    return Provenance(facts=facts, costs=_sum_table(table), cost_source=source)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, or why there is none under the key `missing`."""
    file = folder / "manifest.json"
    if not file.is_file():
        return {"missing": "the folder has no manifest.json"}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {"missing": f"manifest.json cannot be read: {error}"}
    known = isinstance(manifest, dict)
    return manifest if known else {"missing": "manifest.json is no JSON object"}


def _list_manifest(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The manifest's commands and versions; of given rows it has one entry each."""
    if "missing" in manifest:
        return [(f"command of {folder.name}", f"not known: {manifest['missing']}")]
    entries = [manifest] if "command" in manifest else list(manifest.values())
    entries = [each for each in entries if isinstance(each, dict) and "command" in each]
    facts = [("command", str(each["command"])) for each in entries]
    for each in entries[-1:]:
        versions = [
            f"{name} {value}"
            for name, value in each.get("environment", {}).items()
            if name not in ("git_revision", "host")
        ]
        facts += [("written", str(each.get("written", ""))), ("versions", ", ".join(versions))]
    return [(name, value) for name, value in dict.fromkeys(facts) if value]


def _describe_analysis() -> str:
    versions = [f"{name} {metadata.version(name)}" for name in ANALYSIS_PACKAGES]
    return f"python -m analysis.report; Python {platform.python_version()}, {', '.join(versions)}"


def _list_stages(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    stages = manifest.get("stages", [])
    if not isinstance(stages, list):
        return []
    return [each for each in stages if isinstance(each, dict) and each.get("cost")]


def _sum_stages(stages: list[dict[str, Any]]) -> list[tuple[str, int, float, float]]:
    cost = ["cost.wall_s", "cost.estimated_flops"]
    table = pd.json_normalize(stages).reindex(columns=["kind", "key", *cost])
    table[cost] = table[cost].apply(pd.to_numeric)
    return [
        (str(kind), len(mine), _sum(mine[cost[0]]), _sum(mine[cost[1]]))
        for kind, mine in table.drop_duplicates("key").groupby("kind", sort=False)
    ]


def _sum_table(table: pd.DataFrame) -> list[tuple[str, int, float, float]]:
    costs = []
    for name, key, column in STAGES:
        known = table[table[key].notna()].drop_duplicates(key)
        if len(known):
            costs.append((name, len(known), _sum(known[column]), float("nan")))
    trials = table[table["generator_key"].notna()].drop_duplicates("generator_key")
    if np.isfinite(trials["train_flops"]).any():
        name = "training of tokenizer and generator, shared tokenizers counted for each"
        costs.append((name, len(trials), float("nan"), _sum(trials["train_flops"])))
    return costs


def _sum(values: pd.Series) -> float:
    """The sum of what is known; NaN where nothing is."""
    return float(values[np.isfinite(values)].sum(min_count=1))
