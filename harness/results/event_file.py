"""Reads `events.jsonl`: append-only, one JSON object a line; results/README.md has its schema."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "events.jsonl"
SCHEMA = 1
"""Raised when a field changes its meaning or goes away; further fields don't raise it."""


_STARTED = ("store", "command", "host", "pid")
"""What readers need of the event that a run begins with."""


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Events in the order in which they were written; lines that are torn are left out."""
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
            continue
        event = entry.get("event")
        names = ("event", "run", "time", *(_STARTED if event == "sweep_started" else ()))
        if all(name in entry for name in names) and isinstance(entry.get("store", ""), str):
            yield entry
