"""What stages do with images that cannot be used, and with contents that differ."""

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.generation import check_same_images
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store

from ..data.photographs.photograph_files import SPLITS, photographs, write_kind


def _encoder(load, root: Path, limit: int) -> Stage:
    images = {name: photographs(n, 100 * n) for name, n in SPLITS.items()}
    images["train"][4] = images["val"][1] = b"no image"
    write_kind("parquet", root, images)
    return _first_stage(load, root, "parquet", limit)


def _first_stage(load, root: Path, kind: str, limit: int = 0) -> Stage:
    data = (
        f"{{kind: {kind}, name: animals, root: '{root}', eval_split: val, resolution: 16, "
        f"num_classes: 3, num_train_images: 12, num_eval_images: 6, bad_images_limit: {limit}}}"
    )
    counts = ("num_images=3", "num_reference=10", "num_reconstructions=6")
    settings = (f"data={data}", *(f"evaluation.{count}" for count in counts))
    return next(s for s in make_plan(load(*settings)).stages if s.kind == "encoder")


def test_a_stage_records_what_it_left_out(load, tmp_path):
    stage = _encoder(load, tmp_path / "data", limit=1)
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "done", outcome.error
    recorded = Store(tmp_path / "store").get(stage.kind, stage.key).result["bad_images"]
    assert ["train-00000" in recorded[0], "val-00000" in recorded[1]] == [True, True]


def test_without_a_limit_the_stage_fails_with_the_name_of_the_image(load, tmp_path):
    stage = _encoder(load, tmp_path / "data", limit=0)
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "failed"
    assert "row 4 of" in outcome.error


def test_a_cut_shard_fails_the_stage_with_its_name(load, tmp_path):
    write_kind("webdataset", tmp_path / "data")
    path = tmp_path / "data" / "train-0001.tar"
    with tarfile.open(path) as shard:
        label = next(member for member in shard if member.name.endswith(".cls"))
    os.truncate(path, label.offset_data)
    outcome = run_stage(
        _first_stage(load, tmp_path / "data", "webdataset"), tmp_path / "store", Resources(), 0.0
    )
    assert outcome.status == "failed"
    assert "train-0001.tar' must be a whole, uncompressed tar file" in outcome.error


def test_the_limit_moves_no_key(load, tmp_path):
    keys = {_encoder(load, tmp_path / "data", limit).key for limit in (0, 1)}
    assert len(keys) == 1


def _artifact(**result: Any) -> Artifact:
    return Artifact(path=Path("nowhere"), record={"result": result})


def test_samples_are_held_to_the_content_that_was_learnt_from():
    learnt = _artifact(data_fingerprint="names", data_content="bytes")
    check_same_images(learnt, _artifact(data_fingerprint="names", data_content="bytes"))
    # Made before contents were recorded.
    check_same_images(learnt, _artifact(data_fingerprint="names"))
    check_same_images(_artifact(data_fingerprint=None), learnt)
    for other in ({"data_fingerprint": "names", "data_content": "x"}, {"data_fingerprint": "x"}):
        with pytest.raises(ValueError, match=r"needs another data\.name"):
            check_same_images(learnt, _artifact(**other))
