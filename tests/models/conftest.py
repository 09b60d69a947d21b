"""Access to the published reference tensors, which lie beside the project or nowhere."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

SHARED = Path(os.environ.get("FRONTIER_SHARED", Path(__file__).parents[2].parent / "shared"))


class Fixture:
    """One reference file: its tensors by prefix, and its configuration."""

    def __init__(self, name: str) -> None:
        folder = SHARED / "fixtures"
        self.config: dict[str, Any] = json.loads((folder / "fixtures.json").read_text())[name]
        self._tensors = load_file(folder / f"{name}.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value
            for name, value in self._tensors.items()
            if name.startswith(prefix)
        }


@pytest.fixture(scope="session")
def reference():
    if not (SHARED / "fixtures").is_dir():
        pytest.skip(f"the reference tensors are not at {SHARED / 'fixtures'}")
    return Fixture


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def error():
    return relative_error
