"""Orders of an epoch: permutations, functions of (seed, epoch), and how far blocks are apart."""

import numpy as np
import pytest

from harness.data.shuffle import FULL, BlockShuffle, epoch_order

BLOCKS = BlockShuffle(block_images=10, window_images=100)


@pytest.mark.parametrize("shuffle", [FULL, BLOCKS, BlockShuffle(block_images=7, window_images=7)])
@pytest.mark.parametrize("num_images", [1, 9, 10, 1003])
def test_every_order_holds_every_image_once_and_repeats(shuffle, num_images):
    order = epoch_order(3, 5, num_images, shuffle)
    assert np.array_equal(np.sort(order), np.arange(num_images))
    epoch_order.cache_clear()
    assert np.array_equal(epoch_order(3, 5, num_images, shuffle), order)


def test_seeds_and_epochs_have_other_orders():
    orders = [tuple(epoch_order(seed, epoch, 500, BLOCKS)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_a_window_reads_few_blocks_and_mixes_them():
    order = epoch_order(0, 0, 1000, BLOCKS)
    for start in range(0, 1000, 100):
        window = order[start : start + 100]
        assert len(np.unique(window // 10)) == 10
    runs = np.mean(np.abs(np.diff(order)) == 1)
    assert runs < 0.1
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.3


@pytest.mark.parametrize(("block", "window"), [(0, 10), (20, 10), (-1, 5)])
def test_blocks_that_cannot_be_are_refused(block, window):
    with pytest.raises(ValueError, match="use 1000 and 20000"):
        BlockShuffle(block_images=block, window_images=window)
