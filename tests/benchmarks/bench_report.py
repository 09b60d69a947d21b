"""How long the report of a table of ten thousand rows takes, whole command and browser apart.

    python tests/benchmarks/bench_report.py [--rows 10000]

Three shapes of a sweep: few configurations with many snapshots, seeds and guidance settings; a
thousand configurations; and thousands. Printed are wall and CPU time of the command's work without
the start of Python, and the size of the page. CPU time is of one process and thread.
"""

import argparse
import contextlib
import io
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.report import main as report
from analysis.table.columns import REQUIRED_COLUMNS

SHAPES = {
    "100 configurations, 4 guidances, 5 snapshots": (4, 5, 5, 4, 5),
    "1,000 configurations, 2 snapshots": (25, 5, 8, 1, 2),
    "3,300 configurations": (40, 6, 14, 1, 1),
}
"""Name: alignments, latent dims, sizes, guidance settings, snapshots; seeds fill up the rows."""


def make_table(shape: tuple[int, ...], num_rows: int) -> pd.DataFrame:
    """Rows of a sweep with noise over seeds."""
    counts = shape[0] * shape[1] * shape[2] * shape[3] * shape[4]
    axes = [*map(range, shape), range(max(1, round(num_rows / counts)))]
    noise = np.random.default_rng(0)
    rows = [_make_row(indices, noise.normal()) for indices in itertools.product(*axes)]
    return pd.DataFrame(rows, columns=list(REQUIRED_COLUMNS))


def _make_row(indices: tuple[int, ...], noise: float) -> dict[str, object]:
    alignment, dim, size, guidance, snapshot, seed = indices
    trial = f"{alignment}-{dim}-{size}-{seed}"
    latent_dim = 4 * 2**dim
    return {
        "row_id": f"{trial}-{guidance}-{snapshot}",
        "trial_id": trial,
        "status": "done",
        "dataset": "made up",
        "resolution": 32,
        "tokenizer": "va_vae",
        "downsample": 4,
        "latent_dim": latent_dim,
        "alignment": "vf" if alignment else "none",
        "vf_weight": alignment / 10 if alignment else None,
        "generator": "lightningdit",
        "generator_size": f"S{size}",
        "patch_size": 1,
        "generator_params": 1e5 * 2**size,
        **dict.fromkeys(("seed", "tokenizer_seed", "generator_seed", "evaluation_seed"), seed),
        "generator_images": 1000 * (snapshot + 1),
        "guidance_scale": 1 + guidance / 2,
        "guidance": f"cfg {1 + guidance / 2:g}" if guidance else "none",
        "rfid": 4 * latent_dim**-0.5 * np.exp(0.05 * noise),
        "psnr": 20 + latent_dim**0.5,
        "gfid": latent_dim * np.exp(0.1 * noise) / (snapshot + 1) / (1 + 0.1 * alignment),
        "num_images": 2000,
        "num_reconstructions": 500,
        "extractor": "cnn",
        "distance_name": "in-domain Fréchet distance",
        "protocol_hash": f"g{guidance}",
        "protocol": json.dumps({"guidance": {"kind": "cfg", "scale": 1 + guidance / 2}}),
        "reconstruction_protocol_hash": "r",
        "tokenizer_key": f"{alignment}-{dim}-{seed}",
        "generator_key": trial,
        "train_flops": 1e12 * 2**size,
        "schema_version": "1",
    }


def main() -> None:
    """Times the report of every shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    num_rows = parser.parse_args().rows
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            table = make_table(shape, num_rows)
            table.to_parquet(Path(folder) / "table.parquet")
            wall, cpu = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                assert report([folder]) == 0
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            size = (Path(folder) / "report.html").stat().st_size / 1e6
            print(f"{name}: {len(table):,} rows, {wall:.1f} s, CPU {cpu:.1f} s, {size:.1f} MB")


if __name__ == "__main__":
    main()
