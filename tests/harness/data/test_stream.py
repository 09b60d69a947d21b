"""Order and determinism of training batches."""

import dataclasses

import numpy as np
import pytest
import torch

from harness.data import DigitsConfig, ImageDataset, open_dataset
from harness.data.stream import BatchStream, shifted


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return open_dataset(DigitsConfig(max_shift=2))


@pytest.fixture
def stream(digits: ImageDataset) -> BatchStream:
    return BatchStream(dataset=digits, split="eval", batch_size=50, seed=0, augment=True)


@pytest.mark.parametrize("batch_size", [7, 50, 360, 1000])
def test_every_epoch_holds_every_image_once(stream, batch_size):
    stream = dataclasses.replace(stream, batch_size=batch_size)
    steps = -(-3 * 360 // batch_size)
    drawn = np.concatenate([stream.indices(step) for step in range(steps)])
    assert len(drawn) == steps * batch_size
    for epoch in range(3):
        assert np.array_equal(np.sort(drawn[360 * epoch : 360 * (epoch + 1)]), np.arange(360))


def test_epochs_and_seeds_have_different_orders(stream):
    whole = dataclasses.replace(stream, batch_size=360)
    other = dataclasses.replace(whole, seed=1)
    assert not np.array_equal(whole.indices(0), whole.indices(1))
    assert not np.array_equal(whole.indices(0), other.indices(0))


def test_augmentation_differs_between_steps_and_seeds(digits, stream):
    one = dataclasses.replace(stream, batch_size=360)
    ordered = [one.batch(step)[0][np.argsort(one.indices(step))] for step in (0, 1)]
    assert not torch.equal(*ordered)


def test_the_order_of_batches_is_pinned(stream):
    assert stream.indices(0)[:6].tolist() == [302, 207, 8, 106, 16, 208]
    assert stream.indices(10**6)[:6].tolist() == [148, 136, 138, 106, 359, 313]


def test_labels_belong_to_the_images(digits, stream):
    plain = dataclasses.replace(stream, augment=False)
    images, labels = plain.batch(2)
    indices = plain.indices(2)
    assert torch.equal(images, digits.images("eval", indices))
    assert np.array_equal(labels.numpy(), digits.labels("eval")[indices])


def test_moved_images_mirror_their_edges():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    moved = shifted(images, torch.tensor([[0, 0], [1, -2]]))
    assert torch.equal(moved[0], images[0])
    padded = torch.nn.functional.pad(images[1:].float(), (2, 2, 1, 1), mode="reflect")[0]
    assert torch.equal(moved[1].float(), padded[:, 0:4, 4:9])


def test_a_stream_moves_its_images_by_seed_and_step_and_otherwise_not_at_all():
    def batch(step: int, max_shift: int, part: slice = slice(None)) -> torch.Tensor:
        dataset = open_dataset(DigitsConfig(resolution=16, max_shift=0))
        stream = BatchStream(
            dataset=dataset,
            split="train",
            batch_size=8,
            seed=3,
            augment=True,
            part=part,
            max_shift=max_shift,
        )
        return stream.batch(step)[0]

    assert torch.equal(batch(5, 2), batch(5, 2))
    assert torch.equal(batch(5, 2, slice(2, 5)), batch(5, 2)[2:5])
    differ = (batch(5, 2) != batch(5, 0)).flatten(1).any(1)
    assert differ.any()
    assert batch(5, 2).shape == batch(5, 0).shape
