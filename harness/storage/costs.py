"""What finished stages took, kept beside the artifacts, so that forecasts need not read them all.

    <root>/.costs/<kind>-<digest>.json   kind, cost and device of the last stage of its size
    <root>/.costs/whole                  the folder knows of all artifacts

Stages of one kind, device and order of size share a file, so there are few, however many artifacts
there are. Each is replaced whole, which needs no lock on any file system. All of it is a cache.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.storage.durable import read_object, write_json

FOLDER = ".costs"
"""Folder of the store with what stages took."""
WHOLE = "whole"
"""File that is there once the artifacts of earlier versions, or a copied store, were read."""


def note_cost(root: Path, record: Mapping[str, Any]) -> None:
    """Take down what a finished stage took, from its `artifact.json`; what fails is let go."""
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
        cost, device = record["cost"], record["environment"]["device"]
        kept = {"kind": record["kind"], "cost": cost, "environment": {"device": device}}
        size = [f"{amount:.0e}" for amount in (cost["estimated_flops"], cost.get("images", 0))]
        held = [cost.get(name) for name in ("gpus", "cpus", "workers")]
        digest = hashlib.sha256(json.dumps([device, *held, *size]).encode()).hexdigest()[:16]
        (root / FOLDER).mkdir(exist_ok=True)
        write_json(root / FOLDER / f"{record['kind']}-{digest}.json", kept, durable=False)


def read_costs(root: Path) -> Iterator[dict[str, Any]]:
    """Kind, cost and environment of finished stages, one of each size; as told in records."""
    known = (root / FOLDER / WHOLE).exists()
    pattern = f"{FOLDER}/*.json" if known else "[!.]*/*/artifact.json"
    return map(read_object, sorted(root.glob(pattern)))


def keep_costs(root: Path) -> None:
    """Read all records of a store once, where nothing says that this was done."""
    if not (root / FOLDER / WHOLE).exists():
        for record in read_costs(root):
            note_cost(root, record)
        with contextlib.suppress(OSError):
            (root / FOLDER).mkdir(exist_ok=True)
            (root / FOLDER / WHOLE).touch()
