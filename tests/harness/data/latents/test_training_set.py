"""Latents as a generator reads them: from memory or disk, as samples or posteriors, rounded."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.config.resources import Resources
from harness.data.latents.shards import LatentShards
from harness.data.latents.training_set import LatentSet, Precision
from harness.execution.stage_run import run_stage
from harness.machine.random_streams import generator_for
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages import latents as stage_of_latents
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store, write_tensors
from models.autoencoder import Autoencoder
from models.latent import LatentLayout
from models.posterior import PointPosterior, Posterior

CPU = torch.device("cpu")
INDICES = np.array([7, 1200, 0, 500, 7, 1436, 499])
VIEWS = np.array([0, 1, 0, 0, 1, 1, 0])
KINDS = ["sample", "moments"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def encode(load, store, monkeypatch):
    """Encodes the digits in shards of 500, mirror images included."""
    monkeypatch.setattr(stage_of_latents, "SHARD_IMAGES", 500)

    def bring(stage: Stage) -> Artifact:
        for source in stage.inputs.values():
            bring(source)
        outcome = run_stage(stage, store.root, Resources(), 0.0)
        assert outcome.status in ("done", "reused"), outcome.error
        return store.get(stage.kind, stage.key)

    def encode_as(posterior: str, *settings: str) -> Artifact:
        settings = ("latents.flip=true", f"latents.posterior={posterior}", *settings)
        stages = make_plan(load(*settings)).stages
        return bring(next(s for s in stages if s.kind == "latents"))

    return encode_as


def on_disk(artifact: Artifact, monkeypatch, precision: Precision = "fp32") -> LatentSet:
    with monkeypatch.context() as patch:
        patch.setattr("harness.data.latents.training_set.DEVICE_SHARE", 0.0)
        latents = LatentSet(artifact, CPU, precision)
    assert not latents.is_resident
    return latents


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_and_disk_give_the_same_batches_bit_for_bit(encode, kind, precision, monkeypatch):
    artifact = encode(kind)
    held, read = LatentSet(artifact, CPU, precision), on_disk(artifact, monkeypatch, precision)
    assert held.is_resident
    for latents in (held, read):
        assert len(latents) == 1437
        noise = latents.noise(3, 5, len(INDICES))
        batch, labels = latents.batch(INDICES, VIEWS, noise)
        assert batch.dtype == torch.float32
        expected = held.batch(INDICES, VIEWS, noise)
        assert torch.equal(batch, expected[0])
        assert torch.equal(labels, held.labels[torch.from_numpy(INDICES)])


def test_rows_come_in_the_order_asked_for_from_whatever_shard(encode):
    artifact = encode("sample")
    paths = sorted(artifact.path.glob("latents_shard*"))
    assert len(paths) == 3
    whole = torch.cat([load_file(path)["latents_flip"] for path in paths])
    shards = LatentShards(paths, ("latents_flip",), LatentLayout.single(2, 4, 4))
    assert torch.equal(shards.gather("latents_flip", INDICES), whole[torch.from_numpy(INDICES)])


def test_a_rank_reads_its_part_of_the_batch(encode, monkeypatch):
    for latents in (LatentSet(encode("moments"), CPU), on_disk(encode("moments"), monkeypatch)):
        whole, labels = latents.batch(INDICES, VIEWS, latents.noise(0, 9, len(INDICES)))
        for part in (slice(0, 3), slice(3, 7)):
            noise = latents.noise(0, 9, len(INDICES), part)
            own, own_labels = latents.batch(INDICES[part], VIEWS[part], noise)
            assert torch.equal(own, whole[part])
            assert torch.equal(own_labels, labels[part])


def test_posteriors_are_sampled_afresh_from_seed_and_step(encode):
    artifact = encode("moments")
    latents = LatentSet(artifact, CPU)
    rows = latents.read(INDICES, VIEWS)

    def drawn(seed: int, step: int) -> torch.Tensor:
        return latents.finish(rows, latents.noise(seed, step, len(INDICES)))[0]

    assert torch.equal(drawn(0, 1), drawn(0, 1))
    assert not torch.allclose(drawn(0, 1), drawn(0, 2), atol=1e-2)
    assert not torch.allclose(drawn(0, 1), drawn(1, 1), atol=1e-2)
    first = load_file(min(artifact.path.glob("latents_shard*")))
    posterior = Posterior(mean=first["latents"][7:8], log_variance=first["latents_logvar"][7:8])
    noise = torch.randn((7, 2, 4, 4), generator=generator_for(0, "posterior", 1))
    expected = (posterior.sample(noise[:1]) - latents.mean) / latents.std
    torch.testing.assert_close(drawn(0, 1)[:1], expected)


def test_means_are_those_of_posterior_mode_and_statistics_those_of_samples(encode):
    moments, mode, sample = (encode(kind) for kind in ("moments", "mode", "sample"))
    name = "latents_shard00000.safetensors"
    assert torch.equal(moments.tensors(name)["latents"], mode.tensors(name)["latents"])
    for number in ("mean", "std"):
        ours, theirs = (torch.tensor(a.result[number]) for a in (moments, sample))
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


def test_a_set_of_posteriors_without_noise_is_refused(encode):
    with pytest.raises(AssertionError, match="must be given noise to draw a batch"):
        LatentSet(encode("moments"), CPU).batch(INDICES, VIEWS)


def test_bf16_rounds_latents_and_halves_their_memory(encode, monkeypatch):
    artifact = encode("sample")
    needed_bytes = 2 * 1437 * 2 * 4 * 4 * 4
    monkeypatch.setattr("harness.data.latents.training_set.DEVICE_SHARE", 1.0)
    monkeypatch.setattr(
        "harness.data.latents.training_set.free_host_bytes", lambda: needed_bytes // 2
    )
    assert not LatentSet(artifact, CPU, "fp32").is_resident
    assert LatentSet(artifact, CPU, "bf16").is_resident
    monkeypatch.setattr("harness.data.latents.training_set.free_host_bytes", lambda: needed_bytes)
    assert LatentSet(artifact, CPU, "fp32").is_resident
    exact, rounded = (
        LatentSet(artifact, CPU, precision).batch(INDICES, VIEWS)[0]
        for precision in ("fp32", "bf16")
    )
    assert torch.equal(rounded, exact.bfloat16().float())
    assert not torch.equal(rounded, exact)


def test_the_precision_moves_the_generator_and_not_the_latents(load):
    def keys(*settings: str) -> dict[str, str]:
        return {s.kind: s.key for s in make_plan(load(*settings)).stages}

    assert keys("latents.precision=fp32") == keys()
    moved = {k for k, key in keys("latents.precision=bf16").items() if key != keys()[k]}
    assert moved == {"generator", "generation"}


def test_a_deterministic_encoder_has_no_posterior_to_keep(encode, monkeypatch):
    def encode_to_a_point(_: Autoencoder, images: torch.Tensor) -> PointPosterior:
        return PointPosterior(mean=images[:, :2, ::4, ::4])

    encode("mode", "latents.num_images=50")
    monkeypatch.setattr(Autoencoder, "encode", encode_to_a_point)
    with pytest.raises(AssertionError, match=r"predicts a variance.*set latents.posterior: mode"):
        encode("moments", "latents.num_images=50")


def test_a_part_of_the_images_is_spread_over_the_split(load, store):
    def encoded(*settings: str) -> LatentSet:
        stages = make_plan(load("latents.posterior=mode", *settings)).stages
        for stage in stages:
            if stage.kind in ("tokenizer", "latents"):
                assert run_stage(stage, store.root, Resources(), 0.0).status != "failed"
        (stage,) = (s for s in stages if s.kind == "latents")
        return LatentSet(store.get("latents", stage.key), CPU)

    whole, part = encoded(), encoded("latents.num_images=100")
    assert len(part) == 100
    chosen = torch.arange(100) * 1437 // 100
    assert torch.equal(part.labels, whole.labels[chosen])
    ours, theirs = (
        latents.batch(np.array([index]), np.array([0]))[0] * latents.std + latents.mean
        for latents, index in ((part, 99), (whole, int(chosen[99])))
    )
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ConfigError, match=r"latents.num_images.*must be at most 1437"):
        load("latents.num_images=1438")


@pytest.mark.parametrize("kind", KINDS)
def test_training_from_disk_ahead_equals_training_from_memory(load, kind, tmp_path, monkeypatch):
    def weights(folder: Path, share: float) -> tuple[dict[str, torch.Tensor], Artifact]:
        monkeypatch.setattr("harness.data.latents.training_set.DEVICE_SHARE", share)
        local, settings = Store(folder), ("latents.flip=true", f"latents.posterior={kind}")
        stages = make_plan(load(*settings)).stages
        for stage in stages:
            if stage.kind in ("tokenizer", "latents", "generator"):
                outcome = run_stage(stage, folder, Resources(), 0.0)
                assert outcome.status == "done", outcome.error
        (generator,) = (s for s in stages if s.kind == "generator")
        artifact = local.get("generator", generator.key)
        return artifact.tensors("ema-step000000004.safetensors"), artifact

    (held, _), (read, artifact) = weights(tmp_path / "a", 0.4), weights(tmp_path / "b", 0.0)
    assert all(torch.equal(held[name], read[name]) for name in held)
    assert artifact.record["cost"]["data_wait_s"] >= 0.0
    assert not [t for t in threading.enumerate() if "batches ahead" in t.name]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
def test_reading_a_set_leaves_it_on_disk_and_opens_no_file_again(tmp_path):
    def anonymous_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    path = tmp_path / "latents_shard00000.safetensors"
    rows = torch.ones(20_000, 4, 16, 16)
    write_tensors(path, {"latents": rows, "labels": torch.zeros(len(rows), dtype=torch.int64)})
    del rows
    before = anonymous_kib()
    shards = LatentShards([path], ("latents",), LatentLayout.single(4, 16, 16))
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for step in range(50):
        gathered = shards.gather("latents", np.random.default_rng(step).integers(20_000, size=64))
        assert gathered.min() == 1.0
    assert (anonymous_kib() - before) * 1024 < 0.2 * path.stat().st_size
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_a_shard_that_vanishes_or_changes_is_named(encode, tmp_path):
    artifact = encode("sample")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in artifact.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    record = json.loads((copy / "artifact.json").read_text())
    moved = Artifact(path=copy, record=record)
    shard = copy / "latents_shard00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"latents_shard00001.* must have sha256 .*, but is "):
        LatentSet(moved, CPU)
