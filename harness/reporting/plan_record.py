"""`plan.json`: what a look at a sweep needs to know of its plan, without planning anew.

Planning imports PyTorch and timm, which takes seconds; nothing here does.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from harness.config.resources import Resources
from harness.machine.devices import Precision
from harness.schema.reading import validate
from harness.storage.durable import write_json

FILE = "plan.json"


@final
@dataclass(frozen=True, kw_only=True)
class Machine:
    """What forecasts need to know of the machine that a sweep runs on."""

    cpu: str
    """Name of its processor, as environments have it."""
    gpu: str
    """Name of its first GPU; empty where it has none, or none is asked for."""
    core_flops_per_s: float
    """Operations a second of one core in a large matrix product."""


@final
@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage is expected to do."""

    flops: float
    """Floating-point operations."""
    images: int
    """Images that it works through; 0 where unknown."""
    precision: Precision
    """Fastest arithmetic that any of its networks uses."""


@final
@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage of a plan."""

    kind: str
    key: str
    label: str
    """What the sweep varies in it: `latent_dim=16 alignment=vf`."""
    input_keys: tuple[str, ...]
    work: Work | None
    """None of a stage that was there when the plan was made."""


@final
@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """The plan of a sweep, or of the trials of a search."""

    schema_version: Literal[1] = 1
    """Raised when a field changes its meaning; a record of another version is not read."""
    sweep: str
    stages: tuple[StageRecord, ...]
    """Inputs first."""
    rows: dict[str, tuple[str, ...]]
    """Row's name -> keys of the stages that it reads."""
    resources: dict[str, Resources]
    """Stage kind -> what it asks for."""
    machine: Machine
    code: dict[str, str] = field(default_factory=dict)
    """Identity of the user's own code: module -> version and hash."""

    @property
    def read_keys(self) -> set[str]:
        """Keys of the stages whose artifacts rows are made of."""
        return {key for keys in self.rows.values() for key in keys}


def write_record(plan: PlanRecord, results: Path) -> None:
    """Write the record of the plan that was made of the folder's `sweep.yaml`."""
    tree = json.loads(json.dumps(asdict(plan)))
    write_json(results / FILE, {"sha256": hash_of(tree, results), "plan": tree})


def read_record(results: Path) -> PlanRecord | None:
    """The folder's plan; None unless its record is whole, of this version and of `sweep.yaml`."""
    try:
        record = json.loads((results / FILE).read_text(encoding="utf-8"))
        if record["sha256"] != hash_of(record["plan"], results):
            return None
        return validate(PlanRecord, record["plan"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def hash_of(plan: Mapping[str, Any], results: Path) -> str:
    """One hash of a plan and of the sweep file it was made from."""
    text = json.dumps(plan, sort_keys=True)
    return hashlib.sha256(text.encode() + (results / "sweep.yaml").read_bytes()).hexdigest()
