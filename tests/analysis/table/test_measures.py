import numpy as np
import pandas as pd

from analysis.cells.cells import compute_cells
from analysis.table.columns import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from analysis.table.measures import DIAGNOSTICS, MEASURES, choose_scale, name_measure
from analysis.table.reading import check_table


def test_every_measure_is_a_column_of_the_table():
    assert set(MEASURES) <= set(REQUIRED_COLUMNS) | set(OPTIONAL_COLUMNS)
    assert set(DIAGNOSTICS) <= set(MEASURES)


def test_only_distances_carry_the_tables_name_for_them():
    assert name_measure("gfid", "FID") == "generation: FID"
    assert name_measure("psnr", "FID") == "PSNR (dB)"


def test_a_scale_is_logarithmic_from_a_factor_of_five_and_above_zero():
    assert choose_scale(pd.Series([1.0, 5.0])) == "linear"
    assert choose_scale(pd.Series([1.0, 5.1, np.nan, np.inf])) == "log"
    assert choose_scale(pd.Series([0.0, 9.0])) == "linear"
    assert choose_scale(pd.Series([], dtype=float)) == "linear"


def test_latent_measures_are_averaged_over_tokenizers_and_sample_measures_over_seeds(make_row):
    rows = [
        make_row(generator_seed=seed, tokenizer_key=key) | {"density_cv": cv, "sfid": sfid}
        for seed, key, cv, sfid in ((0, "a", 1.0, 1.0), (1, "a", 1.0, 2.0), (2, "b", 4.0, 6.0))
    ]
    point = compute_cells(check_table(pd.DataFrame(rows)), needs=("gfid",)).points.iloc[0]
    assert (point["density_cv"], point["sfid"]) == (2.5, 3.0)
    assert np.isclose(point["density_cv_se"], 1.5)
    assert np.isclose(point["sfid_se"], np.sqrt(7 / 3))


def test_ten_thousand_rows_are_averaged_within_seconds(make_row):
    rows = pd.DataFrame([make_row()] * 10_000)
    rows["row_id"] = rows["trial_id"] = [f"r{i}" for i in range(len(rows))]
    rows["generator_seed"] = np.arange(len(rows)) % 3
    rows["latent_dim"] = np.arange(len(rows)) // 3
    rows["tokenizer_key"] = rows["latent_dim"].astype(str)
    cells = compute_cells(check_table(rows), needs=("gfid",))
    assert len(cells.points) == 3334
