"""Reads a shuffled epoch of data sets; run as a process of its own, it tells how memory grew.

Usage: python read_epoch.py CONFIGURATION [CONFIGURATION ...], each as JSON
"""

import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from harness.config.data import DataConfig
from harness.data import open_dataset
from harness.data.prefetch import Ahead
from harness.data.stream import BatchStream


def peak_mib() -> float:
    """Most that this program has held; `getrusage` would count what its parent held before."""
    (line,) = (t for t in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in t)
    return int(line.split()[1]) / 1024


def read(declared: str, before: float | None) -> float:
    """Read an epoch and the content; the peak after the first batch."""
    dataset = open_dataset(TypeAdapter(DataConfig).validate_json(declared))
    stream = BatchStream(dataset=dataset, split="train", batch_size=16, seed=0, augment=True)
    stream.batch(0)
    before = before or peak_mib()
    steps = dataset.num_images("train") // 16
    with Ahead(stream.batch, range(steps), depth=2) as epoch:
        num_images = sum(len(images) for images, _ in epoch)
    assert num_images == dataset.num_images("train")
    dataset.content_fingerprint()
    return before


if __name__ == "__main__":
    start, grown = None, []
    for configuration in sys.argv[1:]:
        start = read(configuration, start)
        grown.append(peak_mib() - start)
    print(json.dumps(grown))
