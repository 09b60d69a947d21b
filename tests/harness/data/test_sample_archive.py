"""Sample archives: what NumPy and ADM's evaluator would read, whole or absent."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.image_sets import open_image_set
from harness.data.sample_archive import SampleArchive, SampleWriter


def _images(count: int, side: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "samples.npz"


def test_numpy_reads_what_was_written_batch_by_batch(path):
    images, labels = _images(7), torch.arange(7)
    with SampleWriter(path, num_images=7, resolution=6) as writer:
        for chosen in (slice(0, 3), slice(3, 6), slice(6, 7)):
            writer.add(images[chosen], labels[chosen])
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["arr_0", "arr_1"]
        assert np.array_equal(archive["arr_0"], images.permute(0, 2, 3, 1).numpy())
        assert archive["arr_1"].dtype == np.int64
        assert archive["arr_1"].tolist() == list(range(7))


def test_written_samples_come_back_as_an_image_set(path):
    images, labels = _images(5), torch.tensor([4, 4, 0, 1, 2])
    with SampleWriter(path, num_images=5, resolution=6) as writer:
        writer.add(images, labels)
    read = open_image_set(path)
    assert torch.equal(read.images(np.arange(5)), images)
    found = read.labels()
    assert found is not None
    assert found.tolist() == labels.tolist()


def test_the_same_images_give_the_same_bytes(path, tmp_path):
    for place in (path, tmp_path / "again.npz"):
        with SampleWriter(place, num_images=2, resolution=6) as writer:
            writer.add(_images(2))
    assert path.read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_members_are_plain_and_ready_for_more_than_4_gib(path):
    with SampleWriter(path, num_images=2, resolution=6) as writer:
        writer.add(_images(2))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("arr_0.npy")
    assert member.compress_type == zipfile.ZIP_STORED
    header = path.read_bytes()[member.header_offset :]
    name_length = int.from_bytes(header[26:28], "little")
    # Extra field 1: sizes in 64 bits.
    assert header[30 + name_length : 32 + name_length] == b"\x01\x00"


def _write_and_fail(path: Path) -> None:
    with SampleWriter(path, num_images=4, resolution=6) as writer:
        writer.add(_images(2))
        raise RuntimeError("the sampler broke")


def test_a_failure_leaves_no_file_and_keeps_the_older_one(path):
    with pytest.raises(RuntimeError, match="the sampler broke"):
        _write_and_fail(path)
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError, match="the sampler broke"):
        _write_and_fail(path)
    assert path.read_bytes() == b"older"


def test_fewer_images_than_announced_leave_no_file(path):
    writer = SampleWriter(path, num_images=4, resolution=6)
    with pytest.raises(ValueError, match=r"4 images must get them all, but got 2"), writer:
        writer.add(_images(2))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((_images(3), None), "must get no more, but got 5"),
        ((_images(1, side=8), None), "6x6 pixels, but got 8x8"),
        ((_images(1), torch.zeros(1, dtype=torch.int64)), "every batch or with none"),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_not_written(path, batch, message):
    with SampleWriter(path, num_images=4, resolution=6) as writer:
        writer.add(_images(2))
        with pytest.raises(ValueError, match=message):
            writer.add(*batch)
        writer.add(_images(2))
    assert open_image_set(path).num_images == 4


@pytest.mark.parametrize(
    ("name", "sizes"), [("a.zip", (1, 1)), ("a.npz", (0, 1)), ("a.npz", (1, -1))]
)
def test_an_archive_that_cannot_be_right_is_refused(tmp_path, name, sizes):
    with pytest.raises(ValueError, match=r"\.npz|positive"):
        SampleWriter(tmp_path / name, num_images=sizes[0], resolution=sizes[1])


def test_arrays_are_mapped_not_read(path):
    with SampleWriter(path, num_images=3, resolution=6) as writer:
        writer.add(_images(3))
    assert isinstance(SampleArchive(path).array("arr_0"), np.memmap)


_MEASURE = """
import resource, sys
from pathlib import Path
import torch
from harness.data.sample_archive import SampleWriter
batch = torch.zeros(64, 3, 256, 256, dtype=torch.uint8)
def write(count):
    with SampleWriter(Path(sys.argv[1]), num_images=64 * count, resolution=256) as writer:
        for _ in range(count):
            writer.add(batch)
write(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_archive(path):
    path.parent.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _MEASURE, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert path.stat().st_size > 120 * 2**20
    assert int(done.stdout) < 40 * 1024
