"""Front, hypervolume, recommendation and order of a search, on constructed trials."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.figures.saving import ENDS
from analysis.tuning.figures import write_tuning_figures
from analysis.tuning.trials import (
    Repeated,
    compute_front,
    compute_hypervolumes,
    compute_orders,
    load_trials,
    recommend,
    reference_point,
)

CONDITION = "condition.weight"


@pytest.fixture
def search(tmp_path):
    """Writes a search of (name, status, rfid, gfid, weight)."""

    def write(*lines, objectives=(("rfid", False), ("gfid", False))):
        table = pd.DataFrame(lines, columns=["name", "status", "rfid", "gfid", "search.weight"])
        table.insert(0, "trial", range(len(table)))
        table["feasible"] = ["yes" if status == "done" else "no" for status in table["status"]]
        table["trial_id"] = [f"t{number}" for number in table["trial"]]
        table["setting_hash"] = [f"s{number}" for number in table["trial"]]
        table.to_csv(tmp_path / "trials.csv", index=False)
        about = {
            "name": "made",
            "objectives": [{"column": c, "maximised": m} for c, m in objectives],
            "caps": ["rfid at most 5"],
            "references": [line[0] for line in lines if line[0]],
            "scales": {"weight": "log"},
            "distance_name": "FID",
            "setting": "digits, 16 px",
            "repeated": ["confirmed", "promoted"],
        }
        (tmp_path / "study.json").write_text(json.dumps(about))
        return load_trials(tmp_path)

    return write


LINES = (
    ("default", "done", 2.0, 10.0, 0.1),
    ("none", "done", 1.0, 12.0, None),
    ("", "done", 3.0, 4.0, 1.0),
    ("", "done", 3.0, 11.0, 0.2),
    ("", "capped", 9.0, None, 3.0),
    ("", "diverged", None, None, 5.0),
)


def test_the_front_is_of_measured_trials_only(search):
    front = compute_front(search(*LINES))
    assert list(front["trial"]) == [0, 1, 2, 3]
    assert list(front["on_front"]) == [True, True, True, False]


def test_hypervolume_never_falls_over_trials(search):
    trials = search(*LINES)
    volumes = compute_hypervolumes(trials, reference_point([trials]))["hypervolume"]
    assert len(volumes) == 6
    assert (volumes.diff().dropna() >= 0).all()
    assert volumes[5] > volumes[1] > 0


def test_the_recommended_trial_has_the_best_product_of_ratios(search):
    best = recommend(search(*LINES))
    assert best is not None
    assert (best.trial, best.name, best.values) == (1, "none", {"rfid": 1.0, "gfid": 12.0}) or (
        best.trial == 2
    )
    # 1 x 12 and 3 x 4 are equal; a little better generation decides.
    better = recommend(search(*LINES[:2], ("", "done", 3.0, 3.9, 1.0)))
    assert better is not None
    assert (better.trial, better.name) == (2, "trial 2")
    assert better.ranges["weight"] == "1"


def test_a_range_is_of_trials_under_the_same_condition(search):
    lines = [("", "done", 1 + 0.1 * n, 1.0, 0.1 * n if n < 3 else 50.0 * n) for n in range(16)]
    trials = search(*lines)
    whole = recommend(trials)
    assert whole is not None
    assert whole.ranges["weight"] == "0 (0 to 150 in 4 of them)"
    assert (whole.num_near, whole.num_measured) == (4, 16)
    conditions = ["adaptive" if n < 3 else "fixed" for n in range(16)]
    alike = recommend(replace(trials, table=trials.table.assign(**{CONDITION: conditions})))
    assert alike is not None
    assert alike.ranges["weight"] == "0 (0 to 0.2 in 3 of them)"


def test_nothing_is_recommended_where_nothing_was_measured(search):
    assert recommend(search(*LINES[4:])) is None


def test_a_maximised_objective_turns_the_front(search):
    trials = search(*LINES[:4], objectives=(("rfid", False), ("gfid", True)))
    assert list(compute_front(trials)["on_front"]) == [False, True, False, False]


def promoted(full):
    rows = [
        {"setting": name, "seed": seed, "rfid": 1.0, "gfid": value + 0.1 * seed}
        for name, value in full.items()
        for seed in (0, 1)
    ]
    return Repeated(rows=pd.DataFrame(rows), objectives=("rfid", "gfid"))


def test_an_order_that_holds_has_rank_correlation_one(search):
    trials = search(*LINES)
    held = compute_orders(trials, promoted({"default": 5.0, "none": 6.0, "trial 2": 2.0}))[1]
    assert (held.tau, held.kept_pairs, held.num_pairs) == (pytest.approx(1.0), 3, 3)
    turned = compute_orders(trials, promoted({"default": 5.0, "none": 4.0, "trial 2": 6.0}))[1]
    assert (turned.tau, turned.reversed_pairs) == (pytest.approx(-1.0), 3)


def test_an_order_within_noise_is_undecided(search):
    # Two seeds 0.1 apart: a difference has a standard error of 0.07.
    order = compute_orders(search(*LINES), promoted({"default": 5.0, "none": 5.1, "trial 2": 5.3}))[
        1
    ]
    assert (order.kept_pairs, order.reversed_pairs, order.undecided_pairs) == (0, 2, 1)
    assert order.words == "0 of 3 pairs kept, 2 reversed, 1 undecided"
    one = promoted({"default": 5.0, "none": 9.0})
    single = Repeated(rows=one.rows[one.rows["seed"] == 0], objectives=one.objectives)
    assert compute_orders(search(*LINES), single)[1].undecided_pairs == 1


def test_two_settings_have_no_rank_correlation(search):
    order = compute_orders(search(*LINES), promoted({"default": 5.0, "none": 6.0}))[1]
    assert np.isnan(order.tau)
    assert order.num_pairs == 1


def test_changes_are_paired_by_seed():
    runs = promoted({"default": 5.0, "trial 2": 2.5})
    change, error, count = runs.change("trial 2", "default", "gfid")
    assert count == 2
    assert change == pytest.approx(np.mean([2.5 / 5.0, 2.6 / 5.1]) - 1)
    assert error == pytest.approx(np.std([2.5 / 5.0, 2.6 / 5.1], ddof=1) / np.sqrt(2))


def test_a_summary_has_means_and_standard_errors():
    line = promoted({"default": 5.0}).summary().loc["default"]
    assert (line["gfid"], line["gfid_se"], line["num_seeds"]) == (
        pytest.approx(5.05),
        pytest.approx(0.05),
        2,
    )


def test_figures_of_an_earlier_search_are_removed(search, tmp_path):
    search(*LINES)
    (tmp_path / "figures").mkdir()
    stale = tmp_path / "figures/tuning_promotion.png"
    stale.write_bytes(b"old")
    names = {path.name.partition(".")[0] for path in write_tuning_figures(tmp_path)}
    assert names == {"tuning_front", "tuning_hypervolume"}
    assert not stale.exists()


@pytest.mark.parametrize("name", ["study.json", "trials.csv"])
def test_a_missing_file_is_named(search, tmp_path, name):
    search(*LINES)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"must hold study\.json and trials\.csv"):
        load_trials(tmp_path)


def test_a_single_objective_is_drawn_as_the_best_so_far(search, tmp_path):
    search(*LINES, objectives=(("gfid", False),))
    written = {path.name for path in write_tuning_figures(tmp_path)}
    assert written == {f"tuning_hypervolume{end}" for end in ENDS}
