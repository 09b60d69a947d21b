import math

import pytest

from analysis.cells.cells import compute_cells, split_lines


def _cells(table):
    return compute_cells(table, needs=("rfid", "gfid"))


def _lines(table):
    return split_lines(_cells(table).points)


def test_a_cell_is_the_mean_over_seeds_with_its_standard_error(make_row, load):
    table = load([make_row(seed=seed, gfid=gfid) for seed, gfid in enumerate((1.0, 2.0, 6.0))])
    point = _cells(table).points.iloc[0]
    assert point["num_seeds"] == 3
    assert point["gfid"] == pytest.approx(3.0)
    assert point["gfid_sd"] == pytest.approx(math.sqrt(7))
    assert point["gfid_se"] == pytest.approx(math.sqrt(7 / 3))


def test_one_seed_has_no_standard_error(make_row, load):
    assert math.isnan(_cells(load([make_row()])).points["gfid_se"][0])


def test_repetitions_are_told_apart_by_three_seeds_not_by_the_trials(make_row, load):
    rows = [make_row(generator_seed=seed, gfid=gfid) for seed, gfid in enumerate((1.0, 2.0, 6.0))]
    point = _cells(load(rows)).points.iloc[0]
    assert (point["num_seeds"], point["num_tokenizers"]) == (3, 1)
    assert point["gfid_se"] == pytest.approx(math.sqrt(7 / 3))


def test_a_shared_tokenizer_counts_once_in_reconstruction(make_row, load):
    pairs = ((0, 2.0), (0, 2.0), (0, 2.0), (1, 4.0))
    rows = [
        make_row(tokenizer_seed=tokenizer, generator_seed=seed, rfid=rfid, psnr=10 * rfid)
        for seed, (tokenizer, rfid) in enumerate(pairs)
    ]
    cells = _cells(load(rows))
    point = cells.points.iloc[0]
    assert (point["rfid"], point["psnr"]) == pytest.approx((3.0, 30.0))
    assert (point["rfid_se"], point["psnr_se"]) == pytest.approx((1.0, 10.0))
    assert cells.setting.repetitions == "4 seeds (reconstruction: 2 tokenizers)"


def test_one_shared_tokenizer_has_no_reconstruction_error(make_row, load):
    point = _cells(load([make_row(generator_seed=seed) for seed in range(3)])).points.iloc[0]
    assert math.isnan(point["rfid_se"])
    assert point["gfid_se"] == 0


def test_lines_run_through_latent_dims_in_order_with_unaligned_first(dilemma_rows, load):
    lines = _lines(load(dilemma_rows[::-1]))
    assert [name for name, _ in lines] == ["none, S", "none, M", "vf, S", "vf, M"]
    assert all(line["latent_dim"].tolist() == [4, 16, 64] for _, line in lines)


def test_failed_and_unmeasured_rows_are_gaps_with_reasons(make_row, load):
    rows = [
        make_row(),
        make_row(seed=1, status="failed", error="out of memory\n  trace", gfid=None),
        make_row(seed=2, gfid=None),
        make_row(seed=3, rfid=math.inf),
        make_row(seed=4, status="diverged", gfid=None),
    ]
    cells = _cells(load(rows))
    assert cells.points["num_seeds"].tolist() == [1]
    assert cells.gaps["reason"].tolist() == [
        "failed: out of memory",
        "gfid is missing or not finite (nan)",
        "rfid is missing or not finite (inf)",
        "diverged: no error was recorded",
    ]


def test_only_the_last_snapshot_of_a_trial_counts(make_row, load):
    rows = [make_row(generator_images=images, gfid=images / 100) for images in (300, 100, 200)]
    cells = _cells(load(rows))
    assert cells.points["gfid"].tolist() == [3.0]
    assert cells.gaps.empty


def test_a_failed_last_snapshot_is_not_replaced_by_an_earlier_one(make_row, load):
    rows = [make_row(), make_row(generator_images=None, status="failed", error="x", gfid=None)]
    cells = _cells(load(rows))
    assert cells.points.empty
    assert cells.gaps["reason"].tolist() == ["failed: x"]


def test_seeds_at_an_earlier_snapshot_do_not_join_the_mean(make_row, load):
    cells = _cells(load([make_row(), make_row(seed=1, generator_images=500, gfid=90.0)]))
    assert cells.points["gfid"].tolist() == [3.0]
    assert cells.gaps["reason"].tolist() == ["an earlier snapshot than the rest of its cell"]


def test_alignment_encoders_make_lines_named_by_what_differs(make_row, load):
    encoders = ("vit_large_patch16_224.mae", "vit_large_patch14_dinov2.lvd142m")
    vf = {"alignment": "vf", "vf_weight": 0.1, "adaptive_vf": "yes"}
    rows = [make_row(alignment_encoder=encoder, **vf) for encoder in encoders]
    points = _cells(load([make_row(vf_weight=0.0), *rows])).points
    assert points["alignment"].tolist() == ["none", *(f"vf {name}" for name in encoders[::-1])]
    assert _cells(load(rows[:1])).points["alignment"].tolist() == ["vf"]


def test_encoders_of_unlike_dims_share_no_line(make_row, load):
    rows = [
        make_row(alignment="vf", alignment_encoder=encoder, latent_dim=dim)
        for encoder, dim in (("dinov2", 16), ("mae", 32))
    ]
    assert [name for name, _ in _lines(load(rows))] == ["vf dinov2, S", "vf mae, S"]


def test_adaptive_weight_and_patch_size_make_lines(make_row, load):
    rows = [
        make_row(alignment="vf", adaptive_vf=adaptive, patch_size=patch)
        for adaptive in ("no", "yes")
        for patch in (1, 2)
    ]
    assert [name for name, _ in _lines(load([make_row(), *rows]))] == [
        "none, S/1",
        "vf, adaptive_vf no, S/1",
        "vf, adaptive_vf no, S/2",
        "vf, adaptive_vf yes, S/1",
        "vf, adaptive_vf yes, S/2",
    ]


def test_a_detail_that_varies_within_a_cell_makes_lines_of_its_own(make_row, load):
    rows = [make_row(alignment="vf", vf_weight=weight) for weight in (0.1, 0.5)]
    points = _cells(load([make_row(), *rows])).points
    assert points["alignment"].tolist() == ["none", "vf, vf_weight 0.1", "vf, vf_weight 0.5"]


def test_two_trainings_of_one_cell_and_seed_are_never_averaged(make_row, load):
    rows = [make_row(trial_id=name, row_id=name) for name in ("slow", "fast")]
    points = _cells(load(rows)).points
    assert points["num_seeds"].tolist() == [1, 1]
    assert points["cell"].tolist() == ["none, trial fast, S, d=4", "none, trial slow, S, d=4"]


def test_two_trainings_of_one_triple_are_told_apart_whatever_their_seed(make_row, load):
    seeds = {"tokenizer_seed": 0, "generator_seed": 1, "evaluation_seed": 0}
    rows = [make_row(seed=seed, trial_id=f"t{seed}", **seeds) for seed in (0, 1)]
    assert _cells(load(rows)).points["num_seeds"].tolist() == [1, 1]


def test_trainings_of_unlike_length_are_no_snapshots_of_one(make_row, load):
    rows = [
        make_row(trial_id=f"b{batch}", generator_images=12 * batch, gfid=1.0 * batch)
        for batch in (8, 16, 32)
    ]
    cells = _cells(load(rows))
    assert cells.gaps.empty
    assert cells.points["cell"].tolist() == [
        f"none, trained on {images} images, S, d=4" for images in (192, 384, 96)
    ]


def test_mixed_guidance_is_refused(make_row, load):
    table = load([make_row(), make_row(guidance="cfg 2", protocol_hash="other")])
    with pytest.raises(ValueError, match="must share one protocol"):
        _cells(table)


def test_an_empty_table_has_no_points(load):
    assert _cells(load([])).points.empty


def test_snapshots_are_those_of_one_generator_and_no_other_rows(make_row, load):
    snapshots = [
        make_row(generator_key="g", trial_id=name, generator_images=images, gfid=gfid)
        for name, images, gfid in (("first", 100, 9.0), ("renamed", 200, 5.0))
    ]
    cells = compute_cells(load(snapshots), needs=("gfid",))
    assert cells.points["gfid"].tolist() == [5.0]
    trainings = [
        make_row(generator_key=key, trial_id="t", generator_images=images, gfid=gfid)
        for key, images, gfid in (("g", 100, 9.0), ("h", 200, 5.0))
    ]
    cells = compute_cells(load(trainings), needs=("gfid",))
    assert sorted(cells.points["gfid"]) == [5.0, 9.0]
