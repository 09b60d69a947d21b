"""Folders of latents in the published layout: written, read, and refused where they are bad."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.data.latents.folder import LatentFolder, link_shards
from harness.data.latents.training_set import LatentSet
from harness.execution.stage_run import Outcome, run_stage
from harness.export_latents import export_latents
from harness.export_latents import main as export
from harness.plan.plan import make_plan
from harness.plan.requirements import missing_items
from harness.schema.reading import ConfigError
from harness.stages import latents as stage_of_latents
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, DamagedArtifact, Store

CPU = torch.device("cpu")
SHARDS = [f"latents_rank00_shard{number:03d}.safetensors" for number in range(3)]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def bring(store, monkeypatch):
    """Brings a stage's artifact into the store; shards hold 500 images."""
    monkeypatch.setattr(stage_of_latents, "SHARD_IMAGES", 500)

    def run(stage: Stage) -> Outcome:
        for source in stage.inputs.values():
            assert run(source).status in ("done", "reused")
        return run_stage(stage, store.root, Resources(), 0.0)

    return run


def latents_of(load, *settings: str) -> Stage:
    stages = make_plan(load("latents.flip=true", *settings)).stages
    return next(s for s in stages if s.kind == "latents")


@pytest.fixture
def encoded(load, store, bring) -> Artifact:
    stage = latents_of(load)
    assert bring(stage).status in ("done", "reused")
    return store.get("latents", stage.key)


@pytest.fixture
def folder(encoded, tmp_path) -> Path:
    """The encoded digits in the published layout."""
    export_latents(encoded, tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture
def take(load, store, bring, folder):
    """Takes the folder as the latents of the small sweep, under further settings."""

    def run(*settings: str) -> tuple[Outcome, Artifact | None]:
        source = f"latents.source={{kind: folder, path: {folder}}}"
        stage = latents_of(load, source, *settings)
        outcome = bring(stage)
        return outcome, store.find("latents", stage.key)

    return run


def test_the_written_folder_has_the_published_names_types_and_metadata(folder, encoded):
    assert sorted(path.name for path in folder.iterdir()) == [*SHARDS, "latents_stats.pt"]
    with safe_open(folder / SHARDS[2], framework="pt") as file:
        assert file.metadata() == {"total_size": "437", "dtype": "torch.float32", "device": "cpu"}
        assert set(file.keys()) == {"latents", "latents_flip", "labels"}
        assert file.get_tensor("latents").shape == (437, 2, 4, 4)
        assert file.get_tensor("labels").dtype == torch.int64
    statistics = torch.load(folder / "latents_stats.pt", weights_only=True)
    assert set(statistics) == {"mean", "std"}
    assert statistics["mean"].shape == statistics["std"].shape == (1, 2, 1, 1)
    assert statistics["std"].flatten().tolist() == encoded.result["std"]


def test_written_and_read_again_the_batches_are_the_same_bit_for_bit(encoded, take):
    outcome, artifact = take()
    assert outcome.status == "done", outcome.error
    ours, theirs = (LatentSet(each, CPU) for each in (encoded, artifact))
    indices, views = np.array([0, 700, 1436, 3]), np.array([0, 1, 1, 0])
    for mine, yours in zip(ours.batch(indices, views), theirs.batch(indices, views), strict=True):
        assert torch.equal(mine, yours)
    assert artifact.result["label_counts"] == encoded.result["label_counts"]


def test_the_shards_are_linked_and_not_copied(folder, take):
    outcome, artifact = take()
    assert outcome.status in ("done", "reused")
    for number, name in enumerate(SHARDS):
        link = artifact.path / f"latents_shard{number:05d}.safetensors"
        assert link.samefile(folder / name) or link.stat().st_size == (folder / name).stat().st_size
        assert artifact.record["files"][link.name]["sha256"]


def test_symbolic_links_stand_in_where_hard_ones_cannot_be(folder, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("os.link", refuse)
    payload = tmp_path / "payload"
    payload.mkdir()
    for link, name in zip(
        link_shards(LatentFolder(path=str(folder)), payload), SHARDS, strict=True
    ):
        assert link.is_symlink()
        assert link.samefile(folder / name)


def test_a_generator_learns_from_a_folder(folder, tree, write, tmp_path):
    tree["trial"]["latents"] |= {"flip": True, "source": {"kind": "folder", "path": str(folder)}}
    plan = make_plan(load_sweep(write(tree), []))
    for stage in plan.stages:
        assert run_stage(stage, tmp_path / "store", Resources(), 0.0).status == "done"
    (generation,) = (s for s in plan.stages if s.kind == "generation")
    assert Store(tmp_path / "store").get("generation", generation.key).result["gfid"] > 0.0


def test_the_key_follows_the_content_and_not_the_place(load, folder, tmp_path):
    def key(place: Path) -> str:
        return latents_of(load, f"latents.source={{kind: folder, path: {place}}}").key

    shutil.copytree(folder, tmp_path / "moved")
    assert key(tmp_path / "moved") == key(folder)
    assert key(folder) != latents_of(load).key
    tensors = load_file(folder / SHARDS[0])
    tensors["latents"] = tensors["latents"] + 0.5
    save_file(tensors, tmp_path / "moved" / SHARDS[0])
    assert key(tmp_path / "moved") != key(folder)


def test_statistics_are_measured_where_the_folder_brings_none(folder, take, encoded):
    (folder / "latents_stats.pt").unlink()
    outcome, artifact = take("latents.num_statistics=1437")
    assert outcome.status == "done", outcome.error
    everything = torch.cat([load_file(folder / name)["latents"] for name in SHARDS])
    expected = everything.std(dim=(0, 2, 3))
    torch.testing.assert_close(torch.tensor(artifact.result["std"]), expected)


def test_images_written_twice_by_several_processes_are_kept_as_published(folder, take):
    extra = {name: rows[:1].clone() for name, rows in load_file(folder / SHARDS[0]).items()}
    save_file(extra, folder / "latents_rank01_shard000.safetensors")
    outcome, artifact = take()
    assert outcome.status == "done", outcome.error
    assert artifact.result["num_images"] == 1438


def _drop_flip(tensors):
    del tensors["latents_flip"]


def _wrong_channels(tensors):
    tensors["latents"] = tensors["latents"].repeat(1, 2, 1, 1)


def _mixed_counts(tensors):
    tensors["labels"] = tensors["labels"][:-1].clone()


def _far_label(tensors):
    tensors["labels"][3] = 10


def _fewer_rows(tensors):
    for name in list(tensors):
        tensors[name] = tensors[name][:-5].clone()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_flip, r"has no latents_flip .*set latents.flip: false"),
        (_wrong_channels, r"must be float32 of shape \(500, 2, 4, 4\).*latent_dim"),
        (_mixed_counts, r"must be float32 of shape \(499, 2, 4, 4\)"),
        (_far_label, r"labels must lie in 0..9, but 1 of .*shard001.* row 3 \(10\); correct"),
        (_fewer_rows, r"must hold the latents of 1,437 images .*holds 1,432; put back what"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_shard_ends_before_training_with_what_to_do(folder, take, spoil, message):
    tensors = load_file(folder / SHARDS[1])
    spoil(tensors)
    save_file(tensors, folder / SHARDS[1])
    outcome, _ = take()
    assert outcome.status == "failed"
    assert re.search(message, outcome.error), outcome.error


def test_a_truncated_shard_is_named(folder, take):
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-1000])
    outcome, _ = take()
    assert outcome.status == "failed"
    assert f"{path} must be a whole safetensors file" in outcome.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": torch.zeros(1, 2, 1, 1)}, "must hold finite `mean` and `std`"),
        ({"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, "(1, 2, 1, 1)"),
        ({"mean": torch.zeros(1, 2, 1, 1), "std": torch.zeros(1, 2, 1, 1)}, "must be positive"),
        ({"mean": Path("x"), "std": 0}, "must hold tensors and plain values only"),
    ],
)
def test_bad_statistics_are_refused(folder, take, content, message):
    torch.save(content, folder / "latents_stats.pt")
    outcome, _ = take()
    assert outcome.status == "failed"
    assert message in outcome.error


def test_a_folder_that_changes_after_planning_or_taking_is_refused(load, folder, take, bring):
    outcome, artifact = take("latents.num_statistics=300")
    assert outcome.status == "done", outcome.error
    planned = latents_of(load, f"latents.source={{kind: folder, path: {folder}}}")
    tensors = load_file(folder / SHARDS[1])
    tensors["latents"] += 1.0
    # In place, as a careless script would: the linked artifact changes too.
    changed = folder.parent / "changed"
    save_file(tensors, changed)
    with (folder / SHARDS[1]).open("r+b") as file:
        file.write(changed.read_bytes())
    with pytest.raises(ValueError, match=r"another content .*; put it back, or remove"):
        LatentSet(artifact, CPU)
    shutil.rmtree(artifact.path.parent / planned.key, ignore_errors=True)
    assert "must be the folder that was planned with" in bring(planned).error


def test_an_absent_folder_is_missing_before_anything_starts(load, tmp_path):
    stage = latents_of(load, f"latents.source={{kind: folder, path: {tmp_path / 'none'}}}")
    (item,) = missing_items([stage])
    assert "a folder of latents" in str(item)
    assert "latents.source.path" in str(item)


def test_the_images_behind_a_folder_are_not_needed(load, folder):
    images = "{kind: parquet, name: digits, root: nowhere, resolution: 16, num_classes: 10, "
    images += "num_train_images: 1437, num_eval_images: 360}"
    source = f"latents.source={{kind: folder, path: {folder}}}"
    assert missing_items([latents_of(load, f"data={images}", source)]) == []
    assert missing_items([latents_of(load, f"data={images}")]) != []


def test_posteriors_and_repa_do_not_go_with_a_folder(load, folder):
    source = f"latents.source={{kind: folder, path: {folder}}}"
    with pytest.raises(ConfigError, match="one latent an image"):
        load(source, "latents.posterior=moments")
    encoder = "{kind: timm, name: vit_tiny_patch16_224, weights: random}"
    with pytest.raises(ConfigError, match="whose order of images is not known"):
        load(source, f"generator.repa={{kind: repa, block: 1, encoder: {encoder}}}")


def test_the_command_exports_and_names_what_it_cannot(
    encoded, load, store, bring, tmp_path, capsys
):
    assert export([str(encoded.path), str(tmp_path / "out")]) == 0
    assert "1,437 images" in capsys.readouterr().out
    assert export([str(encoded.path), str(tmp_path / "out")]) == 2
    assert "must be absent or empty" in capsys.readouterr().err
    assert export([str(tmp_path), str(tmp_path / "other")]) == 2
    assert "must be the folder of a latents artifact" in capsys.readouterr().err
    for setting, message in (
        ("latents.posterior=moments", "one latent an image"),
        ("latents.flip=false", "every image mirrored too"),
    ):
        stage = latents_of(load, setting)
        assert bring(stage).status == "done"
        place = store.folder("latents", stage.key)
        assert export([str(place), str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err
    assert json.loads((encoded.path / "artifact.json").read_text())["kind"] == "latents"


def rewrite(folder: Path, change) -> None:
    """Change the latents of every shard of a folder."""
    for name in SHARDS:
        tensors = load_file(folder / name)
        changed = {n: t if n == "labels" else change(t, n, name) for n, t in tensors.items()}
        save_file(changed, folder / name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_without_loss(take, folder, dtype):
    rewrite(folder, lambda tensor, _view, _shard: tensor.to(dtype))
    outcome, artifact = take()
    assert artifact is not None, outcome.error
    latents = LatentSet(artifact, CPU)
    found, _ = latents.batch(np.arange(4), np.zeros(4, dtype=np.int64))
    stored = load_file(folder / SHARDS[0])["latents"][:4].float()
    mean, std = (artifact.tensors("statistics.safetensors")[n] for n in ("mean", "std"))
    torch.testing.assert_close(found, (stored - mean) / std)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("with_statistics", [True, False])
def test_latents_that_are_not_finite_are_named_when_they_are_linked(
    take, folder, value, with_statistics
):
    def break_one(tensor, view, shard):
        if (view, shard) == ("latents_flip", SHARDS[1]):
            tensor[7, 0, 1, 0] = value
        return tensor

    rewrite(folder, break_one)
    if not with_statistics:
        (folder / "latents_stats.pt").unlink()
    outcome, artifact = take()
    assert artifact is None
    assert f"1 of 500 rows of {folder / SHARDS[1]} are not, the first row 7" in outcome.error


def test_latents_of_another_type_or_shape_are_told_apart(take, folder):
    rewrite(folder, lambda tensor, _view, _shard: tensor.double())
    assert "in one of the types float32, float16, bfloat16, but is float64" in take()[0].error
    rewrite(folder, lambda tensor, _view, _shard: tensor.float()[:, :1].contiguous())
    assert "take the shards of this tokenizer" in take()[0].error


def test_statistics_without_the_axes_of_batch_and_grid_are_taken(take, folder):
    known = torch.load(folder / "latents_stats.pt", weights_only=True)
    torch.save(
        {name: value.flatten() for name, value in known.items()}, folder / "latents_stats.pt"
    )
    outcome, artifact = take()
    assert artifact is not None, outcome.error
    assert torch.equal(artifact.tensors("statistics.safetensors")["mean"], known["mean"])


def test_a_flipped_byte_is_not_exported(encoded, tmp_path):
    copy = Artifact(path=tmp_path / "copy", record=encoded.record)
    shutil.copytree(encoded.path, copy.path)
    shard = copy.path / "latents_shard00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="latents_shard00001"):
        export_latents(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [torch.int32, torch.uint8])
def test_half_latents_without_statistics_and_small_labels_are_widened(folder, take, labels):
    whole = torch.cat([load_file(folder / name)["latents"] for name in SHARDS]).half()
    for name in SHARDS:
        tensors = load_file(folder / name)
        tensors = {
            n: t.half() if t.is_floating_point() else t.to(labels) for n, t in tensors.items()
        }
        save_file(tensors, folder / name)
    (folder / "latents_stats.pt").unlink()
    outcome, artifact = take("latents.num_statistics=1437")
    assert outcome.status == "done", outcome.error
    expected = whole.float().std(dim=(0, 2, 3))
    torch.testing.assert_close(torch.tensor(artifact.result["std"]), expected)
    latents = LatentSet(artifact, CPU)
    assert latents.labels.dtype == torch.int64
    (found, _), indices = latents.batch(np.array([700]), np.array([0])), 700
    normalised = (whole[indices].float() - latents.mean[0]) / latents.std[0]
    torch.testing.assert_close(found[0], normalised)


def test_a_pointer_in_place_of_statistics_is_named_without_advice_to_run_it(folder, take):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "latents_stats.pt").write_text(pointer)
    error = take()[0].error
    assert "git lfs pull" in error
    assert "weights_only" not in error
