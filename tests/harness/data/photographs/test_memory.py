"""Memory stays bounded on data sets that are larger than the bound."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.schema.keys import to_plain

from .photograph_files import (
    KINDS,
    encoded,
    labels_of,
    samples,
    write_kind,
    write_parquet,
    write_tar,
)

CAP_MIB = 32
"""Most that reading may add to what the process takes once the first batch is read."""
NUM_IMAGES, IMAGE_BYTES = 320, 300_000  # 92 MiB
SCRIPT = Path(__file__).with_name("read_epoch.py")


def _bmp(seed: int) -> bytes:
    """An image whose file is as large as its pixels."""
    side = int((IMAGE_BYTES / 3) ** 0.5)
    pixels = np.full((side, side, 3), seed % 256, dtype=np.uint8)
    pixels[::7, ::3] = seed // 2 % 256
    return encoded(Image.fromarray(pixels), "bmp")


def _write(kind: str, root: Path) -> None:
    """Replace the training split by large images, written piece by piece."""
    labels = labels_of(NUM_IMAGES)
    for part in range(0, NUM_IMAGES, 80):
        images = [_bmp(part + n) for n in range(80)]
        here = labels[part : part + 80]
        if kind == "parquet":
            write_parquet(root / f"large-{part:03d}.parquet", images, here, group=8)
        elif kind == "webdataset":
            named = [(n.replace(".png", ".jpg"), d) for n, d in samples(images, here, part)]
            write_tar(root / f"large-{part:03d}.tar", named)
        else:
            for number, (data, label) in enumerate(zip(images, here, strict=True), part):
                folder = root / "large" / ("ant", "bird", "cat")[label]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:04d}.bmp").write_bytes(data)


def _declare(kind: str, root: Path, row_cache_mib: float = 8) -> str:
    options: dict[str, Any] = {"num_train_images": NUM_IMAGES, "decode_workers": 2}
    if kind == "image_folder":
        options["train_split"] = "large"
    else:
        options["train_files"] = ("large-*",)
    if kind == "parquet":
        options["row_cache_gib"] = row_cache_mib / 1024
    return json.dumps(to_plain(write_kind(kind, root, **options)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_shuffled_epoch_of_more_than_the_cap_stays_below_it(tmp_path):
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        _write(kind, tmp_path / kind)
    declared = [_declare(kind, tmp_path / kind) for kind in KINDS]
    # One that may hold all of its files shows that the cap can be passed.
    declared.append(_declare("parquet", tmp_path / "parquet", row_cache_mib=1024))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[4]),
        # Freed memory goes back at once, so that the peak is what was in use.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "FRONTIER_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, str(SCRIPT), *declared]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *bounded, whole = json.loads(done.stdout)
    assert max(bounded) < CAP_MIB < whole
