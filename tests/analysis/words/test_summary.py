from analysis.words.summary import summarize


def test_the_words_state_best_cell_dilemma_and_alignment(dilemma_rows, load):
    words = summarize(load(dilemma_rows))
    assert "24 of 24 rows done" in words
    assert "Lowest generation distance: vf, S, d=4: 1.515" in words
    assert "none, S, d=4 -> 64: generation 3.03 -> 404 (x133)" in words
    assert words.count("it shows, beyond noise") == 4
    assert "vf, M, d=16: generation x0.5 (seeds 0.5 to 0.5), lower, beyond noise" in words
    assert "By chance alone about 0.3 of 6 would be told apart" in words
    assert "beyond noise it is lower in 6 and higher in 0" in words
    assert "FID" not in words


def test_one_seed_establishes_nothing(dilemma_rows, load):
    words = summarize(load([row for row in dilemma_rows if row["seed"] == 0]))
    assert "One seed only" in words
    assert "an observation, not a finding" in words
    assert "none of this is established" in words
    assert "beyond noise" not in words


def test_shared_tokenizers_establish_nothing_of_reconstruction(dilemma_rows, load):
    rows = [row | {"tokenizer_seed": 0} for row in dilemma_rows]
    keys = ("alignment", "latent_dim")
    rows = [row | {"tokenizer_key": "-".join(str(row[key]) for key in keys)} for row in rows]
    words = summarize(load(rows))
    assert "per cell 2 seeds (reconstruction: 1 tokenizer)" in words
    assert "do not show what another tokenizer would change" in words
    assert "it shows" not in words
    assert "reconstruction x1, no interval (n=2; reconstruction n=1)" in words


def test_overlapping_intervals_claim_no_difference(make_row, load):
    values = {"none": (1.0, 9.0), "vf": (2.0, 7.0)}
    rows = [
        make_row(alignment=name, seed=seed, gfid=gfid, latent_dim=dim, psnr=20.0 + dim)
        for dim in (4, 16)
        for name, pair in values.items()
        for seed, gfid in enumerate(pair)
    ]
    words = summarize(load(rows))
    assert "within noise" in words
    assert "Not told apart from it" in words
    assert "it is lower in 0 and higher in 0" in words
    assert "it shows" not in words


def test_a_falling_generation_distance_is_no_dilemma(make_row, load):
    rows = [make_row(latent_dim=dim, gfid=gfid) for dim, gfid in ((4, 9.0), (16, 3.0))]
    assert "it does not show in the means" in summarize(load(rows))


def test_left_out_rows_are_named_with_their_error(make_row, load):
    rows = [make_row(), make_row(seed=1, row_id="r1", status="failed", error="boom", gfid=None)]
    words = summarize(load(rows))
    assert "Left out: 1 row." in words
    assert "- r1: failed: boom" in words


def test_a_table_without_numbers_says_so(make_row, load):
    assert "nothing can be said" in summarize(load([]))
    failed = make_row(status="failed", error="boom", gfid=None, rfid=None)
    assert "nothing can be said" in summarize(load([failed]))


def test_each_guidance_setting_has_its_own_words(make_row, load):
    rows = [make_row(), make_row(guidance="cfg 2", guidance_scale=2.0, protocol_hash="cfg")]
    words = summarize(load(rows))
    assert "[guidance=none]" in words
    assert "[guidance=cfg 2]" in words
    assert words.splitlines()[0] == (
        "2 ways of sampling compared, lowest generation distance of each:"
        " 3.000 with guidance=none (none, S, d=4); 3.000 with guidance=cfg 2 (none, S, d=4)."
    )


def test_numbers_of_unlike_measurement_are_not_compared_in_the_first_line(make_row, load):
    other = make_row(extractor="inception", protocol_hash="x", seed=1, protocol='{"extractor": 1}')
    assert "whose numbers do not compare" in summarize(load([make_row(), other])).splitlines()[0]
    assert "compare" not in summarize(load([make_row()])).splitlines()[0]
