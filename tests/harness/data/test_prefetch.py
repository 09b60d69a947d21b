"""Batches ahead: the same batches in the same order, errors at their step, nothing left behind."""

import gc
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from harness.data import DigitsConfig, open_dataset
from harness.data.prefetch import Ahead, pinned
from harness.data.stream import BatchStream

DEPTHS = (0, 1, 2, 7)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "batches ahead" in thread.name]


def _wait_until(condition) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("first", [0, 3])
def test_neither_depth_nor_resuming_changes_the_stream(depth, first):
    digits = open_dataset(DigitsConfig())
    stream = BatchStream(dataset=digits, split="train", batch_size=300, seed=2, augment=True)
    with Ahead(stream.batch, range(first, 7), depth=depth) as batches:
        for step, (images, labels) in zip(range(first, 7), batches, strict=True):
            expected = stream.batch(step)
            assert torch.equal(images, expected[0])
            assert torch.equal(labels, expected[1])


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_error_comes_up_at_its_step_and_not_before(depth):
    def compute(step: int) -> int:
        if step == 3:
            raise ValueError("step 3 cannot be read")
        return step

    batches = Ahead(compute, range(10), depth=depth)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="step 3 cannot be read"):
        next(batches)
    assert list(batches) == []


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_no_more_than_depth_batches_are_computed_ahead(depth):
    computed: list[int] = []
    with Ahead(lambda step: computed.append(step), itertools.count(), depth=depth) as batches:
        for taken in range(1, 5):
            next(batches)
            assert _wait_until(lambda taken=taken: len(computed) == taken + depth)
            time.sleep(0.01)
            assert len(computed) == taken + depth
    assert computed == list(range(4 + depth))


@pytest.mark.parametrize("how", ["closed", "forgotten", "exhausted", "failed"])
def test_no_thread_is_left_behind(how):
    before = len(_threads())

    def compute(step: int) -> int:
        if how == "failed" and step == 2:
            raise ValueError("broken")
        return step

    batches = Ahead(compute, range(5), depth=2)
    next(batches)
    if how == "closed":
        batches.close()
        assert list(batches) == []
    elif how == "exhausted":
        assert list(batches) == [1, 2, 3, 4]
    elif how == "failed":
        with pytest.raises(ValueError, match="broken"):
            list(batches)
    else:
        del batches
        gc.collect()
    assert _wait_until(lambda: len(_threads()) == before)


def test_a_thread_that_waits_for_room_ends_when_closed():
    batches = Ahead(lambda step: step, itertools.count(), depth=1)
    assert _wait_until(lambda: bool(_threads()))
    batches.close()
    batches.close()
    assert not _threads()


def test_batches_are_computed_while_the_consumer_works():
    with Ahead(lambda _: time.sleep(0.02), range(6), depth=2) as batches:
        for _ in batches:
            time.sleep(0.05)
    assert 0.01 < batches.waited_s < 0.08  # The first batch, and no other.


def test_waiting_is_counted_where_the_consumer_is_faster():
    with Ahead(lambda _: time.sleep(0.02), range(5), depth=2) as batches:
        list(batches)
    assert batches.waited_s >= 0.09


def test_batches_for_the_cpu_are_left_where_they_are():
    def compute(step: int) -> tuple[torch.Tensor, np.ndarray]:
        return torch.zeros(step), np.zeros(step)

    assert pinned(compute, torch.device("cpu")) is compute


def test_tensors_for_cuda_are_pinned_wherever_they_stand(monkeypatch):
    seen: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    images, labels = torch.zeros(2), torch.zeros(3)
    entered = []

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        entered.append(device.index)
        yield

    monkeypatch.setattr(torch.cuda, "device", on)
    compute = pinned(lambda step: (images, (labels, step)), torch.device("cuda"))
    assert compute(5)[1][1] == 5
    assert not entered
    # A worker's second GPU is that of its thread too.
    assert pinned(lambda step: step, torch.device("cuda", 1))(5) == 5
    assert entered == [1]
    assert seen[0] is images
    assert seen[1] is labels
