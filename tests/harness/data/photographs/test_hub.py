"""Names on the hub: found in its local cache, fetched only when asked for, told before a run."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data import open_dataset
from harness.data.photographs.hub import HubDataset
from harness.plan.plan import make_plan
from harness.plan.requirements import fetch_missing, missing_items
from harness.schema.keys import content_hash
from harness.schema.reading import ConfigError

from .photograph_files import write_kind

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    place = tmp_path / "hub"
    place.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return place


def _lay_out(cache: Path, files: Path, revision: str = "main") -> Path:
    """Put files where the hub's own library puts a revision: blobs, snapshots of links, refs."""
    repository = cache / "datasets--someone--animals"
    snapshot = repository / "snapshots" / COMMIT
    for number, path in enumerate(p for p in sorted(files.rglob("*")) if p.is_file()):
        link = snapshot / path.relative_to(files)
        for folder in (repository / "blobs", link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, repository / "blobs" / f"{number:064d}")
        link.symlink_to(os.path.relpath(repository / "blobs" / f"{number:064d}", link.parent))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "image_folder"])
def test_a_cached_name_is_the_folder_it_was_downloaded_from(cache, tmp_path, kind):
    local = write_kind(kind, tmp_path / "files")
    _lay_out(cache, tmp_path / "files")
    hub = dataclasses.replace(local, root="hf://datasets/someone/animals")
    assert hub.missing() == []
    assert content_hash(hub) == content_hash(local)
    here, there = open_dataset(local), open_dataset(hub)
    order = np.arange(12)
    assert torch.equal(here.images("train", order), there.images("train", order))
    assert here.content_fingerprint() == there.content_fingerprint()


def test_a_revision_and_a_folder_are_found(cache, tmp_path):
    local = write_kind("parquet", tmp_path / "files" / "data")
    _lay_out(cache, tmp_path / "files", revision="v1")
    named = dataclasses.replace(local, root="hf://datasets/someone/animals@v1/data")
    assert open_dataset(named).num_images("train") == 12
    commit = dataclasses.replace(local, root=f"hf://datasets/someone/animals@{COMMIT}/data")
    assert open_dataset(commit).num_images("train") == 12
    (item, *_) = dataclasses.replace(local, root="hf://datasets/someone/animals@v2/data").missing()
    assert "--revision v2 --include 'data/train-*.parquet'" in item.remedy


def test_what_is_not_cached_is_told_with_the_command_that_fetches_it(cache, tmp_path):
    local = write_kind("parquet", tmp_path / "files")
    hub = dataclasses.replace(local, root="hf://datasets/someone/animals")
    train, evaluation = hub.missing()
    assert train.location.startswith(str(cache / "datasets--someone--animals"))
    expected = "hf download someone/animals --repo-type dataset --include 'train-*.parquet'"
    assert expected in train.remedy
    assert "--include 'val-*.parquet'" in evaluation.remedy
    with pytest.raises(ValueError, match="run with --download, or: hf download"):
        open_dataset(hub)


def test_an_unfinished_download_names_the_files_that_it_lacks(cache, tmp_path):
    local = write_kind("parquet", tmp_path / "files")
    (tmp_path / "files" / "train-00001-of-00002.parquet").unlink()
    snapshot = _lay_out(cache, tmp_path / "files")
    (item,) = dataclasses.replace(local, root="hf://datasets/someone/animals").missing()
    assert item.location == str(snapshot / "train-00001-of-00002.parquet")


def test_a_plan_tells_it_before_anything_starts_and_download_fetches(
    cache, tmp_path, monkeypatch, load
):
    write_kind("parquet", tmp_path / "files")
    data = (
        "{kind: parquet, name: animals, root: 'hf://datasets/someone/animals', eval_split: val, "
        "resolution: 16, num_classes: 3, num_train_images: 12, num_eval_images: 6}"
    )
    sizes = (
        "evaluation.num_images=3",
        "evaluation.num_reference=10",
        "evaluation.num_reconstructions=6",
    )
    stages = make_plan(load(f"data={data}", *sizes)).stages
    assert len(missing_items(stages)) == 2
    asked: list[dict[str, object]] = []

    def download(repository: str, **options: object) -> str:
        if options.get("local_files_only"):
            return str(found) if found else _absent()
        asked.append({"repository": repository, **options})
        return str(_lay_out_once())

    def _absent() -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("not there")

    def _lay_out_once() -> Path:
        nonlocal found
        found = found or _lay_out(cache, tmp_path / "files")
        return found

    found: Path | None = None
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    fetch_missing(stages)
    assert missing_items(stages) == []
    assert asked[0] == {
        "repository": "someone/animals",
        "repo_type": "dataset",
        "revision": "main",
        "allow_patterns": ["train-*.parquet"],
    }


def test_a_fetch_without_network_fails_with_the_way_out(tmp_path, load):
    data = (
        "{kind: parquet, name: animals, root: 'hf://datasets/someone/animals', eval_split: val, "
        "resolution: 16, num_classes: 3, num_train_images: 12, num_eval_images: 6}"
    )
    sizes = (
        "evaluation.num_images=3",
        "evaluation.num_reference=10",
        "evaluation.num_reconstructions=6",
    )
    stages = make_plan(load(f"data={data}", *sizes)).stages
    with pytest.raises(ConfigError, match=r"could not be fetched.*hf download someone/animals"):
        fetch_missing(stages)


@pytest.mark.parametrize("root", ["hf://models/a/b", "hf://datasets/a", "hf://datasets/a/b@"])
def test_an_address_that_names_no_data_set_is_refused(tmp_path, root):
    config = write_kind("parquet", tmp_path / "files")
    with pytest.raises(ValueError, match="OWNER/NAME@REVISION"):
        dataclasses.replace(config, root=root)


def test_a_revision_with_a_slash_is_read_as_the_hub_writes_it():
    found = HubDataset.parse("hf://datasets/a/b@refs%2Fconvert%2Fparquet/default")
    assert found == HubDataset(repository="a/b", revision="refs/convert/parquet", folder="default")
    assert HubDataset.parse("/data/a/b") is None
