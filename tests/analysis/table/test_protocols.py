import json

import pytest

from analysis.table.protocols import require_one_protocol, say_drawing, split_by_protocol


def _cfg(make_row, scale, **values):
    return make_row(
        guidance=f"cfg {scale}",
        guidance_scale=scale,
        protocol_hash=f"cfg {scale} hash",
        protocol=json.dumps({"guidance": {"kind": "cfg", "scale": scale}, "num_steps": 50}),
        **values,
    )


def test_one_protocol_is_accepted(dilemma_rows, load):
    require_one_protocol(load(dilemma_rows))


def test_a_mixture_is_refused_with_fields_and_rows(make_row, load):
    table = load([_cfg(make_row, 2.0, row_id="a"), _cfg(make_row, 4.0, row_id="b")])
    message = r"'guidance.scale' is 2.0 \(row a\) or 4.0 \(row b\)"
    with pytest.raises(ValueError, match=message):
        require_one_protocol(table)


def test_unlike_reconstruction_protocols_are_refused(make_row, load):
    table = load([make_row(), make_row(seed=1, reconstruction_protocol_hash="other")])
    with pytest.raises(ValueError, match="'reconstruction_protocol_hash' is"):
        require_one_protocol(table)


def test_the_reconstruction_protocol_is_spelt_out_too(make_row, load):
    rows = [
        make_row(
            seed=seed,
            reconstruction_protocol_hash=kind,
            reconstruction_protocol=json.dumps({"posterior": kind}),
        )
        for seed, kind in enumerate(("mode", "sample"))
    ]
    with pytest.raises(ValueError, match=r"'reconstruction.posterior' is mode \(.* or sample"):
        require_one_protocol(load(rows))


@pytest.mark.parametrize("column", ["dataset", "extractor", "distance_name"])
def test_one_hash_does_not_hide_an_unlike_column(make_row, load, column):
    table = load([make_row(), make_row(seed=1, **{column: "other"})])
    with pytest.raises(ValueError, match=f"'{column}' is"):
        require_one_protocol(table)


def test_rows_that_are_not_done_mix_nothing(make_row, load):
    failed = make_row(seed=1, status="failed", gfid=None, rfid=None, protocol_hash="other")
    require_one_protocol(load([make_row(), failed]))


def test_one_protocol_is_one_group_without_a_name(dilemma_rows, load):
    table = load(dilemma_rows)
    groups = split_by_protocol(table)
    assert list(groups) == [""]
    assert len(groups[""]) == len(table)


def test_groups_are_named_by_the_differing_field_largest_first(make_row, load):
    rows = [_cfg(make_row, 2.0), _cfg(make_row, 4.0), _cfg(make_row, 4.0, seed=1)]
    groups = split_by_protocol(load(rows))
    assert list(groups) == ["guidance=cfg 4.0", "guidance=cfg 2.0"]
    assert [len(rows) for rows in groups.values()] == [2, 1]


def test_equal_labels_of_unlike_guidance_fall_back_to_its_fields(make_row, load):
    rows = []
    for start in (0.0, 0.5):
        protocol = json.dumps({"guidance": {"start": start}})
        rows.append(
            make_row(row_id=str(start), guidance="cfg", protocol_hash=protocol, protocol=protocol)
        )
    assert set(split_by_protocol(load(rows))) == {"guidance.start=0.0", "guidance.start=0.5"}


def test_a_row_without_a_protocol_is_in_every_group(make_row, load):
    early = make_row(seed=9, row_id="early", status="failed", gfid=None, rfid=None)
    early |= {"protocol_hash": None, "reconstruction_protocol_hash": None, "extractor": None}
    groups = split_by_protocol(load([_cfg(make_row, 2.0), _cfg(make_row, 4.0), early]))
    assert len(groups) == 2
    assert all("early" in set(rows["row_id"]) for rows in groups.values())


def test_rows_that_wait_are_with_those_whose_reconstructions_are_measured(make_row, load):
    waiting = {"status": "pending", "gfid": None, "protocol": None, "protocol_hash": None}
    unknown = {"rfid": None, "reconstruction_protocol": None, "reconstruction_protocol_hash": None}
    rows = [make_row(seed=0, **waiting), make_row(seed=1, **waiting, **unknown)]
    (group,) = split_by_protocol(load(rows)).values()
    assert len(group) == 2
    other = make_row(seed=2, **waiting, reconstruction_protocol_hash="other")
    groups = split_by_protocol(load([*rows, other])).values()
    assert [sorted(rows["seed"]) for rows in groups] == [[0, 1], [1, 2]]


def test_an_empty_table_is_one_empty_group(load):
    groups = split_by_protocol(load([]))
    assert list(groups) == [""]
    assert groups[""].empty


def _drawn(make_row, generator, sampler, evaluations=26, **values):
    protocol = {"sampler": sampler, "num_function_evaluations": evaluations, "num_images": 2000}
    text = json.dumps(protocol | values.pop("fields", {}))
    name = f"{generator} {text}"
    return make_row(generator=generator, protocol=text, protocol_hash=text, row_id=name, **values)


def test_each_kind_of_generator_may_be_sampled_in_its_own_way(make_row, load):
    early = make_row(row_id="early", status="failed", gfid=None, rfid=None, protocol_hash=None)
    rows = [
        _drawn(make_row, "lightningdit", {"kind": "euler"}),
        _drawn(make_row, "autoregressive", {"kind": "categorical", "top_k": 8}, 16, seed=1),
        early,
    ]
    table = load(rows)
    require_one_protocol(table)
    groups = split_by_protocol(table)
    assert list(groups) == [""]
    assert groups[""]["row_id"].tolist() == table["row_id"].tolist()
    done = groups[""][groups[""]["status"] == "done"]
    assert say_drawing(done) == "autoregressive categorical, lightningdit euler"
    assert say_drawing(done.iloc[:1]) == ""


def test_a_kind_sampled_in_two_ways_keeps_them_and_all_others_apart(make_row, load):
    rows = [
        _drawn(make_row, "lightningdit", {"kind": "euler"}),
        _drawn(make_row, "lightningdit", {"kind": "heun"}, seed=1),
        _drawn(make_row, "autoregressive", {"kind": "categorical"}, seed=2),
    ]
    assert {len(rows) for rows in split_by_protocol(load(rows)).values()} == {1}
    with pytest.raises(ValueError, match=r"'sampler.kind' is euler \(row lightningdit"):
        require_one_protocol(load(rows))


def test_kinds_measured_in_unlike_ways_stay_apart(make_row, load):
    rows = [
        _drawn(make_row, "lightningdit", {"kind": "euler"}),
        _drawn(make_row, "autoregressive", {"kind": "a"}, fields={"num_images": 50}, seed=1),
    ]
    names = split_by_protocol(load(rows))
    assert len(names) == 2
    assert all("num_images=" in name for name in names)


def _measured(make_row, name, sha, **fields):
    protocol = {"dataset": name, "extractor_sha256": sha, **fields}
    texts = {"protocol": json.dumps(protocol), "reconstruction_protocol": json.dumps(protocol)}
    hashes = {f"{column}_hash": text for column, text in texts.items()}
    return make_row(dataset=name, row_id=f"{name} {sha} {fields}", **texts, **hashes)


def test_a_name_has_what_people_read_and_no_field_that_follows_from_it(make_row, load):
    counts = {"crop": 1, "num_images": 5, "num_reference": 9, "split": 3, "steps": 4}
    rows = [
        _measured(make_row, "digits", "a" * 64, **counts),
        _measured(make_row, "cifar10", "b" * 64, **dict.fromkeys(counts, 7)),
    ]
    assert set(split_by_protocol(load(rows))) == {
        "dataset=digits, crop=1, num_images=5",
        "dataset=cifar10, crop=7, num_images=7",
    }
    rows.append(_measured(make_row, "digits", "c" * 64, **counts))
    assert set(split_by_protocol(load(rows))) == {
        f"dataset={name}, extractor_sha256={digit * 8}, crop={crop}"
        for name, digit, crop in (("digits", "a", 1), ("cifar10", "b", 7), ("digits", "c", 1))
    }
