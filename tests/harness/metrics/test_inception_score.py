"""The inception score against closed forms and torch-fidelity."""

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from harness.metrics.inception_score import InceptionScore, splits_in_order, splits_shuffled


def _logits(num_images: int = 203, num_classes: int = 7) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return 3.0 * torch.randn(num_images, num_classes, generator=random)


def _score(logits: torch.Tensor, splits: torch.Tensor, batch_size: int = 64) -> InceptionScore:
    score = InceptionScore.empty(int(splits.max()) + 1, logits.shape[1])
    batches = zip(logits.split(batch_size), splits.split(batch_size), strict=True)
    for some_logits, some_splits in batches:
        score = score.update(some_logits, some_splits)
    return score


def test_shuffled_splits_give_torch_fidelitys_score():
    logits = _logits()
    reference = isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020)
    ours = _score(logits, splits_shuffled(len(logits))).compute()
    assert ours == pytest.approx(tuple(reference.values()), rel=1e-10)


def test_splits_in_order_give_the_mean_over_consecutive_images():
    logits = _logits(130)
    posteriors = logits.double().softmax(dim=1).numpy()
    scores = []
    for part in (posteriors[:50], posteriors[50:100], posteriors[100:]):
        kl = (part * (np.log(part) - np.log(part.mean(0)))).sum(1)
        scores.append(np.exp(kl.mean()))
    ours = _score(logits, splits_in_order(130, split_size=50)).compute()
    assert ours == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)


def test_splits_have_equal_sizes():
    assert splits_in_order(12_000).bincount().tolist() == [5000, 5000, 2000]
    assert sorted(splits_shuffled(203).bincount().tolist()) == [20] * 7 + [21] * 3


def test_certain_and_even_classes_score_their_number():
    logits = 1000.0 * torch.eye(5).repeat(4, 1)
    assert _score(logits, splits_in_order(20)).compute() == pytest.approx((5.0, 0.0))


def test_images_that_look_alike_score_one():
    logits = _logits(1).repeat(30, 1)
    assert _score(logits, splits_shuffled(30)).compute() == pytest.approx((1.0, 0.0))


def test_merging_workers_equals_a_single_pass():
    logits, splits = _logits(), splits_shuffled(203)
    left, right = (
        InceptionScore.empty(10, 7).update(logits[part], splits[part])
        for part in (slice(0, 90), slice(90, 203))
    )
    assert left.merge(right).compute() == pytest.approx(_score(logits, splits).compute())


def test_a_split_without_images_is_refused():
    score = InceptionScore.empty(2, 7).update(_logits(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(AssertionError, match="no split may be empty"):
        score.compute()


def test_logits_that_cannot_be_scored_are_refused():
    score = InceptionScore.empty(1, 7)
    with pytest.raises(AssertionError, match="one extractor"):
        score.update(_logits(2, 6), torch.zeros(2, dtype=torch.int64))
    bad = score.update(_logits(2) * math.nan, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="finite"):
        bad.compute()
