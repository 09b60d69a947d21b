"""The mean over images and the label accuracy that it carries."""

import pytest
import torch

from harness.metrics.classification import labels_met
from harness.metrics.image_mean import ImageMean


def test_merging_workers_equals_a_single_pass():
    values = torch.randn(101, generator=torch.Generator().manual_seed(0))
    single = ImageMean.empty().update(values)
    left = ImageMean.empty().update(values[:30])
    right = ImageMean.empty().update(values[30:60]).update(values[60:])
    assert left.merge(right).num_images == single.num_images == 101
    assert left.merge(right).compute() == pytest.approx(single.compute(), rel=1e-12)


def test_unequal_batches_weigh_by_their_images():
    mean = ImageMean.empty().update(torch.ones(3)).update(torch.zeros(1))
    assert mean.compute() == 0.75


def test_a_mean_over_nothing_is_refused():
    with pytest.raises(ZeroDivisionError):
        ImageMean.empty().compute()


def test_label_accuracy_counts_images_recognised_as_asked():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    met = labels_met(logits, torch.tensor([0, 1, 1]))
    assert met.tolist() == [True, True, False]
    assert ImageMean.empty().update(met).compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_beyond_the_extractors_classes_are_refused(label):
    with pytest.raises(ValueError, match="trained on this data set"):
        labels_met(torch.zeros(1, 2), torch.tensor([label]))
