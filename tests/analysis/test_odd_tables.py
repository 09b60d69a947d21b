"""Empty, one-row, all-failed, NaN and old tables through every computation."""

import numpy as np
import pandas as pd
import pytest

from analysis.cells.cells import compute_cells
from analysis.compare import compare_tables, describe_comparison
from analysis.figures.convergence import compute_convergence
from analysis.figures.curves import CURVE_COLUMNS, compute_curves
from analysis.figures.diagnostics import compute_correlations
from analysis.figures.frontier import compute_frontier
from analysis.figures.guidance import compute_guidance
from analysis.statistics.dilemma_slope import compute_dilemma_slopes
from analysis.statistics.gain import compute_gains
from analysis.table.columns import REQUIRED_COLUMNS
from analysis.table.reading import check_table
from analysis.words.summary import summarize
from analysis.words.tables import compute_result_table, format_csv, format_latex, format_markdown


def _write_table(table):
    result = compute_result_table(compute_cells(table, needs=("gfid",)))
    return format_markdown(result) + format_latex(result) + format_csv(result)


COMPUTATIONS = {
    "frontier": compute_frontier,
    "cells": lambda table: compute_cells(table, needs=("gfid",)),
    "gains": lambda table: compute_gains(compute_cells(table, needs=("rfid", "gfid"))),
    "slopes": lambda table: compute_dilemma_slopes(compute_cells(table, needs=("rfid", "gfid"))),
    "convergence": compute_convergence,
    "guidance": compute_guidance,
    "diagnostics": lambda table: compute_correlations(compute_cells(table, needs=("gfid",))),
    "curves": lambda table: compute_curves(pd.DataFrame(columns=list(CURVE_COLUMNS)), table),
    "tables": _write_table,
    "summary": summarize,
    "compare": lambda table: describe_comparison(
        compare_tables(table, table), first="a", second="b"
    ),
}
ODD_ROWS = {
    "empty": [],
    "failed": [{"status": "failed", "error": "boom", "gfid": None, "rfid": None}],
    "pending without a configuration": [
        {"status": "pending", "latent_dim": None, "alignment": None, "generator_size": None}
        | {"gfid": None, "rfid": None, "generator_images": None}
    ],
    "NaN": [{"gfid": np.nan, "rfid": np.nan, "psnr": np.nan}],
    "infinite": [{"gfid": np.inf, "rfid": np.inf}],
    "negative": [{"gfid": -0.1, "rfid": -0.1}, {"gfid": 1.0, "rfid": 1.0, "alignment": "vf"}],
    "zero": [{"gfid": 0.0, "rfid": 0.0}, {"gfid": 0.0, "rfid": 0.0, "alignment": "vf"}],
    "one row": [{}],
    "done and failed": [{}, {"seed": 1, "status": "failed", "gfid": None, "rfid": None}],
}


@pytest.mark.parametrize("odd", ODD_ROWS)
@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_an_odd_table_breaks_no_computation(make_row, odd, computation):
    rows = [make_row(**values) for values in ODD_ROWS[odd]]
    table = check_table(pd.DataFrame(rows, columns=list(REQUIRED_COLUMNS)))
    COMPUTATIONS[computation](table)
