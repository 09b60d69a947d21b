"""The user's own code on its way to a cluster: what Ray is handed, and that workers find it."""

import importlib
import logging
import sys
from pathlib import Path

import pytest
import ray

from harness.config.python_tokenizer import PythonTokenizerConfig
from harness.executors import ray_connection
from harness.executors.ray_connection import connected, environment_of_workers
from harness.schema import imported
from harness.schema.imported import code_of


def tokenizer(target: str) -> PythonTokenizerConfig:
    return PythonTokenizerConfig(target=target, latent_dim=4, downsample=4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that imports a package beside it, both met in a plan."""
    monkeypatch.setattr(imported, "_met", {})
    monkeypatch.setattr(imported, "_loaded", [])
    package = tmp_path / "shipped_nets" / "deep"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("WIDTH = 7\n")
    (tmp_path / "shipped_tokenizer.py").write_text(
        "from shipped_nets.deep.layers import WIDTH\ndef build(): return WIDTH\n"
    )
    (tmp_path / "models").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    code_of(tokenizer("shipped_tokenizer:build"))
    return tmp_path


def test_a_cluster_is_handed_the_module_and_the_package_it_imports_and_nothing_else(
    folder, monkeypatch
):
    handed = {}
    for check in ("require_open", "_require_answer"):
        monkeypatch.setattr(ray_connection, check, lambda address: None)
    monkeypatch.setattr(ray, "init", lambda **arguments: handed.update(arguments))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connected("head:6379", print):
        pass
    assert sorted(handed["runtime_env"]["py_modules"]) == [
        str(folder / "shipped_nets"), str(folder / "shipped_tokenizer.py")
    ]  # fmt: skip


def test_code_that_is_installed_or_holds_more_than_code_is_not_sent(folder, monkeypatch):
    (folder / "shipped_nets" / "weights.bin").write_bytes(bytes(4096))
    monkeypatch.setattr(imported, "MAX_SHIPPED_BYTES", 2048)
    assert environment_of_workers() == {"py_modules": [str(folder / "shipped_tokenizer.py")]}
    monkeypatch.setattr(imported, "_met", {"yaml": None})
    assert environment_of_workers() == {}


def test_workers_import_what_was_handed_to_ray(folder, monkeypatch):
    environment = environment_of_workers()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    ray_connection.prepare(None)
    ray.init(address="local", num_cpus=1, include_dashboard=False, runtime_env=environment,
             log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    try:

        @ray.remote
        def width() -> int:
            return importlib.import_module("shipped_tokenizer").build()

        assert ray.get(width.remote(), timeout=120) == 7
    finally:
        ray.shutdown()
