"""Damaged files of every reader: read as they are, passed over, or named in words."""

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.tuning.trials import load_trials
from analysis.words.provenance import _read_manifest
from harness.config.weights import RowWeights
from harness.data import DatasetConfig, open_dataset
from harness.data.image_sets import NpzImages, open_image_set
from harness.data.latents.folder import LatentFolder
from harness.data.photographs.encoded import EncodedImage
from harness.metrics.statistics_files import read_statistics
from harness.reporting.plan_record import read_record
from harness.results.event_file import read_events
from harness.results.folder import read_rows
from harness.schema.reading import read_yaml
from harness.storage.artifacts import Store, read_history, store_of
from harness.storage.checkpoints import load_checkpoint, save_checkpoint
from harness.storage.lease import describe_holder, is_held
from harness.tuning.study import count_finished
from models.checkpoint import read_generator, read_tokenizer
from models.diffusers_autoencoder import read_network_config

from ..data.photographs.photograph_files import write_kind

pytestmark = pytest.mark.usefixtures("little_memory")

SECONDS = float(os.environ.get("FRONTIER_HOSTILE_S", "8"))
SEED = int(os.environ.get("FRONTIER_HOSTILE_SEED", "0"))
JSON = [
    b"", b"{", b"[]", b"{}", b"null", b"NaN", b"1e999", b"[" * 100_000, b'"\\ud800"', b'{"a": NaN}',
    b'{"files": {}, "result": {}}', b'{"files": {"a": 1}, "result": {}, "record_sha256": 1}',
    b'{"sha256": 1, "plan": {}}', b'{"row_id": 3}', b'{"token": [], "pid": "x", "table": 1}',
    b'{"store": [], "event": "sweep_started", "schema": 1, "run": 1, "time": "x"}', b"9" * 5000,
    b'{"_class_name": 3}', b'{"_class_name": "AutoencoderKL", "scaling_factor": "x"}',
]  # fmt: skip
Reader = Callable[[Path], Any]


def _images(dataset: DatasetConfig) -> Reader:
    return lambda _: open_dataset(dataset).images("train", np.arange(12))


def make_readers(root: Path) -> dict[str, tuple[Path, Reader]]:
    """Name -> a file, and what reads it."""
    readers: dict[str, tuple[Path, Reader]] = {}

    def add(name: str, read: Reader, write: Callable[[Path], object]) -> None:
        path = root / name.replace(" ", "-") / name.rpartition(" ")[2]
        path.parent.mkdir()
        write(path)
        readers[name] = path, read

    state = {"conv.weight": torch.ones(2, 2), "ema.bias": torch.zeros(3)}
    add("sweep s.yaml", read_yaml, lambda p: p.write_text("a: &a {b: [1, 2.5, ~, 'x']}\nc: *a\n"))
    for read in (read_tokenizer, read_generator):
        add(f"{read.__name__} w.safetensors", read, lambda p: save_file(state, p))
        add(f"{read.__name__} w.pt", read, lambda p: torch.save({"ema": state, "n": 1}, p))
    moments = {"mu": np.zeros(4), "sigma": np.eye(4)}
    add("moments m.npz", read_statistics, lambda p: np.savez(p, **moments))
    plain = {name: torch.from_numpy(value) for name, value in moments.items()}
    add("moments m.pt", read_statistics, lambda p: torch.save(plain, p))
    stored = {"num_samples": torch.tensor(9.0), "mean": plain["mu"], "scatter": plain["sigma"]}
    add("moments m.safetensors", read_statistics, lambda p: save_file(stored, p))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    add("samples a.npz",
        lambda p: open_image_set(NpzImages(path=str(p))).images(np.arange(3)),
        lambda p: np.savez(p, arr_0=pixels))  # fmt: skip
    for kind in ("png", "jpg", "webp", "gif", "bmp", "tif", "ppm"):
        add(f"image i.{kind}",
            lambda p: EncodedImage(name=p.name, source=p).decode(8, upright=True),
            lambda p: Image.fromarray(pixels[0]).save(p))  # fmt: skip
    for kind in ("parquet", "webdataset", "image_folder"):
        dataset = write_kind(kind, root / kind)
        path = sorted(p for p in (root / kind).rglob("*train*") if p.is_file())[:1]
        path = path or sorted((root / kind).rglob("*.png"))[:1]
        readers[f"data set {kind}"] = path[0], _images(dataset)
    add("latents latents_stats.pt",
        lambda p: LatentFolder(path=str(p.parent)).statistics(4),
        lambda p: torch.save({"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}, p),
        )  # fmt: skip
    described = '{"_class_name": "AutoencoderKL", "latent_channels": 4}'
    add("diffusers config.json",
        lambda p: read_network_config(p.parent), lambda p: p.write_text(described))  # fmt: skip
    add("kind artifact.json",
        lambda p: Store(p.parents[2]).find(p.parents[1].name, p.parent.name),
        lambda p: p.write_text('{"kind": "k", "result": {"a": 1}, "files": {}}'))  # fmt: skip
    add("plan plan.json", lambda p: read_record(p.parent), lambda p: p.write_text("{}"))
    add("run manifest.json", lambda p: store_of(p.parent), lambda p: p.write_text('{"store": "a"}'))
    add("log events.jsonl", lambda p: list(read_events(p)), lambda p: p.write_text("{}\n{}\n"))
    add("log history.jsonl", lambda p: read_history(p.parent), lambda p: p.write_text("{}\n{}\n"))
    add("held k.lease", lambda p: (is_held(p), describe_holder(p)),
        lambda p: p.write_text('{"table": "t", "pid": 1, "token": "x"}'))  # fmt: skip
    rows = root / "results" / "rows"
    rows.mkdir(parents=True)
    (rows / "a.json").write_text('{"row_id": "a", "gfid": 1.5, "seed": 3, "schema_version": 3}')
    add("analysis manifest.json", lambda p: _read_manifest(p.parent), lambda p: p.write_text("{}"))
    add("analysis study.json", lambda p: load_trials(p.parent), _write_search)
    readers["row a.json"] = rows / "a.json", lambda _: read_rows(rows.parent)
    start = RowWeights(results=str(root / "rows"), row="a")
    (root / "rows").symlink_to(rows.parent)
    readers["start a.json"] = rows / "a.json", lambda _: start._values("row")
    artifact = root / "kind-artifact.json"
    (rows.parent / "below.txt").write_text(f"{artifact}\n~/..\n")
    readers["stores below.txt"] = rows.parent / "below.txt", lambda _: Store(rows.parent)
    journal = '{"op_code": 0, "worker_id": "x", "study_name": "s", "directions": [1, 1]}\n'
    add("search study.journal",
        lambda p: count_finished(p.parent), lambda p: p.write_text(journal))  # fmt: skip
    return readers


def _write_search(path: Path) -> None:
    about = {
        "objectives": [{"column": "gfid", "maximised": False}],
        **dict.fromkeys(["name", "distance_name", "setting"], "x"),
        **{name: [] for name in ("caps", "references", "scales", "repeated")},
    }
    path.write_text(json.dumps(about))
    columns = "trial,name,status,feasible,trial_id,setting_hash,gfid"
    (path.parent / "trials.csv").write_text(f"{columns}\n0,a,done,yes,b,c,1.0\n")


def damaged(content: bytes, path: Path, draw: random.Random) -> bytes:
    """Another content: bits flipped, a part cut out or put in, or something else."""
    at, other = (draw.randrange(len(content) + 1) for _ in range(2))
    way = draw.randrange(8)
    if way == 0 and path.suffix in (".json", ".jsonl", ".lease"):
        return draw.choice(JSON)
    if way == 1:
        return content[:at]
    if way == 2:
        return content[:at] + draw.randbytes(draw.choice([1, 8, 64])) + content[at:]
    if way == 3:
        return content[: min(at, other)] + content[max(at, other) :]
    if way == 4:
        return draw.choice([b"", b"\0" * 512, draw.randbytes(300), content * 2, content[::-1]])
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8, 32])):
        if changed:
            # The beginning says what the rest is.
            end = len(changed) if draw.random() < 0.5 else min(len(changed), 200)
            changed[draw.randrange(end)] = draw.choice([0, 1, 0x7F, 0xFF, draw.randrange(256)])
    return bytes(changed)


def test_every_damaged_file_is_read_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FRONTIER_CACHE", str(tmp_path / "cache"))
    readers, draw = make_readers(tmp_path), random.Random(SEED)
    for path, read in readers.values():
        read(path)
    whole = {path: path.read_bytes() for path, _ in readers.values()}
    until, ended = time.monotonic() + SECONDS, Counter[str]()
    print(f"damage from FRONTIER_HOSTILE_SEED={SEED}")
    texts = [n for n, (path, _) in readers.items() if path.suffix in (".json", ".jsonl", ".lease")]
    every = list(itertools.product(texts, JSON))
    while every or time.monotonic() < until:
        name, content = every.pop() if every else (draw.choice(sorted(readers)), None)
        path, read = readers[name]
        content = damaged(whole[path], path, draw) if content is None else content
        path.write_bytes(content)
        try:
            read(path)
            ended["read"] += 1
        # What a command tells in words; all else would be a traceback. Warnings are errors here.
        except (ValueError, OSError, UserWarning) as error:
            ended["named"] += 1
            if path.name not in str(error) and path.parent.name not in str(error):
                pytest.fail(f"{name} under seed {SEED} is not named: {error}\n{content[:400]!r}")
        except Exception as error:
            pytest.fail(f"{name} under seed {SEED}: {error!r}\n{content[:400]!r}")
        path.write_bytes(whole[path])
    print(f"{dict(ended)}")
    assert min(ended["read"], ended["named"]) > 0


def test_damaged_checkpoints_are_passed_over(tmp_path):
    draw, state = random.Random(SEED), {"weights": torch.ones(3), "step": [1, 2]}
    for _ in range(200):
        folder = tmp_path / "checkpoints"
        folder.mkdir(exist_ok=True)
        save_checkpoint(folder, 1, state)
        path = draw.choice(sorted(folder.iterdir()))
        path.write_bytes(damaged(path.read_bytes(), path, draw))
        found = load_checkpoint(folder)
        assert found is None or json.dumps(found[1]["step"]) == "[1, 2]"
