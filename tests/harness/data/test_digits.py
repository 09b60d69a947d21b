"""The embedded data set."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from harness.data import DigitsConfig, open_dataset
from harness.data.digits import enlarge_grey_levels, stratified_split


@pytest.mark.parametrize("resolution", [8, 16, 24, 32])
def test_enlarging_is_bilinear_interpolation(resolution):
    features, _ = load_digits(return_X_y=True)
    levels = np.asarray(features)[:20].reshape(-1, 8, 8)
    reference = functional.interpolate(
        torch.from_numpy(levels)[:, None] * (255 / 16), size=resolution, mode="bilinear"
    )[:, 0]
    ours = enlarge_grey_levels(levels.astype(np.int64), resolution)
    assert np.abs(ours - reference.numpy()).max() <= 0.5 + 1e-9


def test_the_split_is_fixed_and_divides_all_images_by_class():
    labels = np.asarray(load_digits(return_X_y=True)[1]).astype(np.int64)
    split = stratified_split(labels, 360)
    together = np.concatenate([split["train"], split["eval"]])
    assert np.array_equal(np.sort(together), np.arange(1797))
    expected = np.bincount(labels) * 360 / 1797
    assert np.abs(np.bincount(labels[split["eval"]]) - expected).max() < 1
    assert split["eval"][:8].tolist() == [0, 3, 8, 9, 11, 16, 30, 33]


def test_the_declared_counts_are_the_real_ones():
    config = DigitsConfig()
    digits = open_dataset(config)
    assert digits.num_images("train") == config.num_train_images
    assert digits.num_images("eval") == config.num_eval_images
    assert digits.num_classes == config.num_classes
    assert config.missing() == []


def test_the_content_is_pinned_and_independent_of_augmentation():
    still, moving = (open_dataset(DigitsConfig(max_shift=shift)) for shift in (0, 2))
    pinned = "e65c583d3cfccc140808abf63d95505bcb46ddbb0a471d495ff7827cb300ce76"
    assert still.fingerprint() == moving.fingerprint() == pinned
    assert still.fingerprint() != open_dataset(DigitsConfig(resolution=24)).fingerprint()


def test_augmentation_moves_images_by_at_most_max_shift_pixels():
    digits = open_dataset(DigitsConfig(max_shift=1))
    index = np.array([0])
    still = digits.images("train", index)
    padded = functional.pad(still, (1, 1, 1, 1))
    places = [padded[:, :, y : y + 16, x : x + 16] for y in range(3) for x in range(3)]
    seen = set()
    for seed in range(60):
        moved = digits.augmented("train", index, np.random.default_rng(seed))
        seen.add(next(k for k, place in enumerate(places) if torch.equal(moved, place)))
    assert seen == set(range(9))


def test_without_shift_training_images_are_the_originals():
    digits = open_dataset(DigitsConfig(max_shift=0))
    moved = digits.augmented("train", np.arange(9), np.random.default_rng(0))
    assert torch.equal(moved, digits.images("train", np.arange(9)))


@pytest.mark.parametrize("bad", [{"resolution": 12}, {"resolution": 0}, {"max_shift": 8}])
def test_sizes_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DigitsConfig(**bad)
