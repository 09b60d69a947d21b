"""Constructed tables with known answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.table.columns import REQUIRED_COLUMNS, SEED_COLUMNS
from analysis.table.reading import load_table

MakeRow = Callable[..., dict[str, Any]]
Load = Callable[[list[dict[str, Any]]], pd.DataFrame]


@pytest.fixture(scope="session")
def make_row() -> MakeRow:
    """A done row; keyword arguments replace its values, seeds and tokenizer follow `seed`."""

    def make(**values: Any) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(REQUIRED_COLUMNS)
        row |= {
            "sweep": "frontier",
            "status": "done",
            "dataset": "digits",
            "resolution": 16,
            "tokenizer": "va_vae",
            "latent_dim": 4,
            "alignment": "none",
            "generator": "lightningdit",
            "generator_size": "S",
            "patch_size": 1,
            "generator_params": 100_000,
            "seed": 0,
            "generator_images": 1000,
            "guidance": "none",
            "guidance_scale": 1.0,
            "rfid": 2.0,
            "psnr": 24.0,
            "gfid": 3.0,
            "label_accuracy": 0.9,
            "num_images": 2000,
            "num_reconstructions": 360,
            "extractor": "small_cnn",
            "distance_name": "in-domain Fréchet distance",
            "protocol_hash": "generation",
            "reconstruction_protocol_hash": "reconstruction",
            "protocol": json.dumps({"solver": {"kind": "euler", "num_steps": 50}}),
        } | values
        row |= {name: row["seed"] for name in SEED_COLUMNS if name not in values}
        tokenizer = ("alignment", "alignment_encoder", "vf_weight", "adaptive_vf", "latent_dim")
        names = (*tokenizer, "generator_size", "patch_size", *SEED_COLUMNS)
        if "tokenizer_key" not in values:
            row["tokenizer_key"] = "-".join(
                str(row[name]) for name in (*tokenizer, "tokenizer_seed")
            )
        row["trial_id"] = row["trial_id"] or "-".join(str(row[name]) for name in names)
        row["row_id"] = row["row_id"] or (
            f"{row['trial_id']}-{row['guidance']}-{row['generator_images']}"
        )
        return row

    return make


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes rows as a parquet table and loads it."""

    def write_and_load(rows: list[dict[str, Any]]) -> pd.DataFrame:
        pd.DataFrame(rows, columns=list(REQUIRED_COLUMNS)).to_parquet(tmp_path / "table.parquet")
        return load_table(tmp_path)

    return write_and_load


@pytest.fixture
def dilemma_rows(make_row: MakeRow) -> list[dict[str, Any]]:
    """Two alignments, three dims, two sizes, two seeds: the dilemma, eased by alignment."""
    rows = []
    for alignment, factor in (("none", 1.0), ("vf", 0.5)):
        for dim, gfid, rfid, psnr in ((4, 3, 4, 24), (16, 30, 2, 26), (64, 400, 1, 28)):
            for size, params in (("S", 100_000), ("M", 400_000)):
                for seed in (0, 1):
                    noise = 1 + 0.02 * seed
                    rows.append(
                        make_row(
                            alignment=alignment,
                            latent_dim=dim,
                            generator_size=size,
                            generator_params=params,
                            seed=seed,
                            gfid=gfid * factor * noise,
                            rfid=rfid * noise,
                            psnr=psnr + 0.01 * seed,
                        )
                    )
    return rows
