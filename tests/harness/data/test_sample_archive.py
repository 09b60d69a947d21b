"""Sample archives: what NumPy and ADM's evaluator would read, whole or absent."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.image_sets import NpzImages, open_image_set
from harness.data.sample_archive import SampleArchive, write_samples


def _images(count: int, side: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "samples.npz"


def _write(path: Path, *batches: torch.Tensor, labels: list[int] | None = None) -> None:
    pixels = (images.permute(0, 2, 3, 1).numpy() for images in batches)
    labels = list(range(sum(map(len, batches)))) if labels is None else labels
    write_samples(path, pixels, np.array(labels, dtype=np.int64), resolution=6)


def test_numpy_reads_what_was_written_batch_by_batch(path):
    images = _images(7)
    _write(path, images[:3], images[3:6], images[6:])
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["arr_0", "arr_1"]
        assert np.array_equal(archive["arr_0"], images.permute(0, 2, 3, 1).numpy())
        assert archive["arr_1"].dtype == np.int64
        assert archive["arr_1"].tolist() == list(range(7))


def test_written_samples_come_back_as_an_image_set(path):
    images, labels = _images(5), [4, 4, 0, 1, 2]
    _write(path, images, labels=labels)
    read = open_image_set(NpzImages(path=str(path)))
    assert torch.equal(read.images(np.arange(5)), images)
    found = read.labels()
    assert found is not None
    assert found.tolist() == labels


def test_the_same_images_give_the_same_bytes(path, tmp_path):
    for place in (path, tmp_path / "again.npz"):
        _write(place, _images(2))
    assert path.read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_members_are_plain_and_ready_for_more_than_4_gib(path):
    _write(path, _images(2))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("arr_0.npy")
    assert member.compress_type == zipfile.ZIP_STORED
    header = path.read_bytes()[member.header_offset :]
    name_length = int.from_bytes(header[26:28], "little")
    # Extra field 1: sizes in 64 bits.
    assert header[30 + name_length : 32 + name_length] == b"\x01\x00"


def _write_and_fail(path: Path) -> None:
    def batches() -> Iterator[np.ndarray]:
        yield np.zeros((2, 6, 6, 3), dtype=np.uint8)
        raise RuntimeError("the sampler broke")

    write_samples(path, batches(), np.zeros(4, dtype=np.int64), resolution=6)


def test_a_failure_leaves_no_file_and_keeps_the_older_one(path):
    with pytest.raises(RuntimeError, match="the sampler broke"):
        _write_and_fail(path)
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError, match="the sampler broke"):
        _write_and_fail(path)
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    ("images", "message"),
    [(_images(2), "4 images must come, but 2"), (_images(4, side=8), "the announced size")],
)
def test_other_images_than_announced_leave_no_file(path, images, message):
    with pytest.raises(AssertionError, match=message):
        _write(path, images, labels=[0] * 4)
    assert list(path.parent.iterdir()) == []


def test_arrays_are_mapped_not_read(path):
    _write(path, _images(3))
    assert isinstance(SampleArchive(path).array("arr_0"), np.memmap)


_MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from harness.data.sample_archive import write_samples
batch = np.zeros((64, 256, 256, 3), dtype=np.uint8)
def write(count):
    labels = np.zeros(64 * count, dtype=np.int64)
    write_samples(Path(sys.argv[1]), (batch for _ in range(count)), labels, 256)
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
