"""Reconstructions from elsewhere and their originals: what is no pair is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.config.perceptual import LPIPSMetric
from harness.config.resources import Resources
from harness.data.image_sets import FolderImages, NpzImages, open_image_set
from harness.execution.stage_run import Outcome, run_stage
from harness.stages.encoder import stage as encoder
from harness.stages.encoder.kind import METRIC
from harness.stages.given_pairs import GivenPairsStage, pairing
from harness.stages.stage import Stage
from harness.storage.artifacts import Store

PIXELS = np.random.default_rng(0).integers(0, 256, size=(12, 16, 16, 3), dtype=np.uint8)


def _folder(root: Path, names: list[str]) -> FolderImages:
    root.mkdir()
    for name, pixels in zip(names, PIXELS, strict=True):
        Image.fromarray(pixels).save(root / f"{name}.png")
    return FolderImages(path=str(root))


@pytest.fixture
def folder(tmp_path: Path) -> FolderImages:
    return _folder(tmp_path / "made", [str(number) for number in range(12)])


@pytest.fixture
def archive(tmp_path: Path) -> NpzImages:
    np.savez(tmp_path / "originals.npz", arr_0=PIXELS)
    return NpzImages(path=str(tmp_path / "originals.npz"))


def test_a_folder_of_plain_numbers_pairs_with_the_archive_it_came_from(folder, archive):
    made, originals = open_image_set(folder), open_image_set(archive)
    every = np.arange(12)
    assert pairing(made, originals).tolist() == every.tolist()
    assert made.images(every).equal(originals.images(every))


def test_a_skipped_image_breaks_the_pairs(folder, archive):
    Path(folder.path, "3.png").write_bytes(b"no image")
    skipping = dataclasses.replace(folder, on_unreadable="skip")
    sets = open_image_set(skipping), open_image_set(archive)
    for made, originals in (sets, sets[::-1]):
        with pytest.raises(ValueError, match=r"pairs must be whole.*3\.png.*their partners too"):
            pairing(made, originals)


def test_two_folders_must_have_the_same_names(folder, tmp_path):
    names = [str(number + (number > 6)) for number in range(12)]
    other = _folder(tmp_path / "originals", names)
    with pytest.raises(
        ValueError, match=r"'12' of 'originals' has no one partner in 'made' \(11 of 12"
    ):
        pairing(open_image_set(folder), open_image_set(other))


def test_pairs_are_found_by_name_whatever_the_order(folder, archive, tmp_path):
    names = [f"{'ab'[number % 2]}_img_{11 - number}" for number in range(12)]
    made, originals = _folder(tmp_path / "flat", names), tmp_path / "originals"
    for name, pixels in zip(names, PIXELS, strict=True):
        place = originals / f"class_{name[-1]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{name}.png")
    sets = open_image_set(made), open_image_set(FolderImages(path=str(originals)))
    partners = pairing(*sets)
    assert sets[0].images(partners).equal(sets[1].images(np.arange(12)))
    assert partners.tolist() != list(range(12))


def test_pairs_by_position_that_are_none_are_said(folder, tmp_path):
    np.savez(tmp_path / "shuffled.npz", arr_0=np.roll(PIXELS, 1, axis=0))
    shuffled = open_image_set(NpzImages(path=str(tmp_path / "shuffled.npz")))
    with pytest.warns(UserWarning, match="seem to be in different orders"):
        pairing(open_image_set(folder), shuffled)


def test_unlike_numbers_of_images_are_no_pairs(folder, archive):
    Path(folder.path, "3.png").unlink()
    with pytest.raises(ValueError, match="one reconstruction, but 'originals' has 12"):
        pairing(open_image_set(folder), open_image_set(archive))


def test_weights_of_lpips_that_changed_since_planning_stop_the_stage(
    load, folder, archive, tmp_path
):
    trial = load().points[0].trial
    contents = [open_image_set(images).fingerprint() for images in (folder, archive)]
    config = GivenPairsStage(
        reconstructions=folder,
        originals=archive,
        content=(contents[0], contents[1]),
        resolution=16,
        perceptual=LPIPSMetric(backbone_weights=str(tmp_path / "absent.pth")),
        perceptual_weights="backbone sha256 ab, heads published",
        batch_size=8,
    )
    extractor = encoder.stage_of(trial.evaluation.extractor, trial, METRIC)
    pairs = Stage(kind="given_pairs", config=config, inputs={"extractor": extractor}, label="pairs")
    ended = [_run(stage, tmp_path) for stage in (extractor, pairs)]
    assert [outcome.status for outcome in ended] == ["done", "failed"]
    assert "but are backbone absent, heads published" in ended[1].error


def _run(stage: Stage, root: Path) -> Outcome:
    return run_stage(stage, Store(root).root, Resources(), gpus=0)
