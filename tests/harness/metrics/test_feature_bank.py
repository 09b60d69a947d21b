"""The bank of single images' features."""

import pytest
import torch

from harness.metrics.feature_bank import FeatureBank

FEATURES = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


def test_a_bank_keeps_the_first_images_up_to_its_capacity():
    bank = FeatureBank.empty(3, 7)
    for batch in FEATURES.double().split(4):
        bank = bank.update(batch)
    assert torch.equal(bank.compute(), FEATURES[:7])
    assert (bank.num_images, bank.num_seen) == (7, 10)


def test_merging_workers_equals_a_single_pass_whoever_did_what():
    positions = torch.tensor([8, 1, 5, 3, 0, 9, 7, 2, 6, 4])
    left = FeatureBank.empty(3, 6).update(FEATURES[positions[:5]], positions[:5])
    right = FeatureBank.empty(3, 6).update(FEATURES[positions[5:]], positions[5:])
    assert torch.equal(right.merge(left).compute(), FEATURES[:6])


def test_positions_outside_the_bank_are_not_kept():
    bank = FeatureBank.empty(3, 2).update(FEATURES[:4], torch.tensor([-1, 1, 2, 0]))
    assert torch.equal(bank.compute(), FEATURES[[3, 1]])


def test_an_update_leaves_the_old_bank_unchanged():
    empty = FeatureBank.empty(3, 7)
    empty.update(FEATURES)
    assert empty.num_images == 0
    assert empty.compute().shape == (0, 3)


def test_storage_keeps_every_bit():
    bank = FeatureBank.empty(3, 7).update(FEATURES[:5], torch.tensor([4, 2, 0, 9, 1]))
    restored = FeatureBank.from_tensors(bank.to_tensors())
    assert torch.equal(restored.compute(), bank.compute())
    assert (restored.capacity, restored.num_seen) == (7, 5)
    later = restored.update(FEATURES[5:6], torch.tensor([3]))
    assert torch.equal(later.compute()[3], FEATURES[5])


def test_two_images_in_one_place_are_refused():
    bank = FeatureBank.empty(3, 7).update(FEATURES[:2])
    with pytest.raises(AssertionError, match="own place"):
        bank.merge(bank).compute()


def test_banks_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="use one extractor"):
        FeatureBank.empty(4, 7).update(FEATURES)
    with pytest.raises(AssertionError, match="capacity of the whole"):
        FeatureBank.empty(3, 7).merge(FeatureBank.empty(3, 8))
