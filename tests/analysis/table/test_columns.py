import numpy as np
import pandas as pd

from analysis.cells.cells import compute_cells
from analysis.compare import compare_tables
from analysis.group import analyse_group
from analysis.page.data import build_data
from analysis.table.columns import ATTRIBUTE, Column, known_columns, write_columns
from analysis.table.protocols import split_by_protocol
from analysis.table.reading import check_table
from analysis.table.scales import choose_scale
from analysis.words.tables import compute_result_table, format_markdown


def test_only_distances_carry_the_tables_name_for_them():
    assert known_columns()["gfid"].full_label("FID") == "generation: FID"
    assert known_columns()["psnr"].full_label("FID") == "PSNR (dB)"


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


def test_a_measure_of_a_tables_own_is_averaged_compared_and_listed(make_row):
    table = pd.DataFrame(
        [
            make_row(alignment=alignment, seed=seed) | {"plugin.sharpness": 1.0 + seed}
            for alignment in ("none", "vf")
            for seed in (0, 1)
        ]
    )
    sharpness = Column(
        type="number", description="how sharp", better="higher", measured_on="samples", label="bite"
    )
    table.attrs[ATTRIBUTE] = write_columns({"plugin.sharpness": sharpness})
    (rows,) = split_by_protocol(check_table(table)).values()
    group = analyse_group("", rows)
    assert group.cells.points["plugin.sharpness"].tolist() == [1.5, 1.5]
    assert "bite ↑" in format_markdown(compute_result_table(group.cells))
    (protocol,) = build_data([group])["protocols"]
    assert protocol["metrics"][-1]["label"] == "bite"
    changes = compare_tables(check_table(table), check_table(table)).changes
    assert set(changes[changes["metric"] == "plugin.sharpness"]["verdict"]) == {"equal"}
