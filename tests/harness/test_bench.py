"""The benchmark: loops that take turns, rows that say what was measured, and the whole command."""

import json
import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.profiler import record_function

from harness.bench import main
from harness.benchmarks import training_parts
from harness.benchmarks import turns as turns_module
from harness.benchmarks.generated import enlarged, size_of
from harness.benchmarks.measuring import PLAIN, Bench, ladder
from harness.benchmarks.rows import Row, as_text, measured, quartiles
from harness.benchmarks.turns import FEWEST, Taken, Times, repeated, take_turns
from harness.data.latents.training_set import LatentSet
from harness.storage.artifacts import Store, write_tensors
from models.lightningdit import LightningDiT

CPU = torch.device("cpu")
PARTS = {
    "tokenizer training",
    "tokenizer parts",
    "encoding",
    "generator training",
    "sampling",
    "metric pipeline",
    "data pipeline",
}


def test_loops_take_turns_step_by_step():
    order = []
    loops = {name: repeated(lambda name=name: order.append(name)) for name in ("a", "b")}
    times = take_turns(loops, CPU, repeats=2)
    assert order == ["a", "b"] * 4
    assert [len(found.turns) for found in times.values()] == [2, 2]


def test_loops_that_are_not_together_run_one_after_the_other():
    order = []
    loops = {name: repeated(lambda name=name: order.append(name)) for name in ("a", "b")}
    times = take_turns(loops, CPU, repeats=2, steps=3, together=False)
    # One step builds, the others are three a turn.
    assert order == ["a"] * 10 + ["b"] * 10
    assert [turn.steps for turn in times["b"].turns] == [3, 3]


def test_slow_steps_make_turns_of_few(monkeypatch):
    monkeypatch.setattr(turns_module, "TURN_S", 0.02)
    loops = {"slow": repeated(lambda: time.sleep(0.03)), "fast": repeated(int)}
    times = take_turns(loops, CPU, repeats=2, steps=5)
    assert [turn.steps for turn in times["slow"].turns] == [1, 1]
    monkeypatch.setattr(turns_module, "TURN_S", 60.0)
    times = take_turns(loops, CPU, repeats=2, steps=5)
    assert [turn.steps for turn in times["fast"].turns] == [5, 5]
    row = measured(Row(part="p", what="w", images=4), times["slow"], clock="wall", threads=1)
    assert row.steps_a_turn == 5
    assert row.seconds == pytest.approx(0.03, rel=0.3)


@pytest.mark.parametrize("together", [True, False])
def test_slow_loops_take_fewer_turns_but_never_too_few(together):
    loops = {name: repeated(lambda: time.sleep(0.02)) for name in ("a", "b")}
    limit_s = 0.4 if together else 0.2
    times = take_turns(loops, CPU, repeats=50, together=together, limit_s=limit_s)
    assert all(FEWEST <= len(found.turns) <= 10 for found in times.values())
    times = take_turns(loops, CPU, repeats=50, together=together, limit_s=1e-9)
    assert [len(found.turns) for found in times.values()] == [FEWEST, FEWEST]


def test_a_loop_that_fails_says_why_and_leaves_the_others_their_turns():
    def fails() -> None:
        raise RuntimeError("out of\nmemory")

    before = threading.active_count()
    times = take_turns({"bad": repeated(fails), "good": repeated(int)}, CPU, repeats=3)
    assert times["bad"].error == "RuntimeError: out of memory"
    assert len(times["good"].turns) == 3
    assert threading.active_count() == before
    row = measured(Row(part="p", what="w", images=4), times["bad"], clock="wall", threads=1)
    assert (row.status, row.reason) == ("failed", "RuntimeError: out of memory")


def test_parts_are_the_outermost_ranges_of_a_loop_and_its_rest():
    profiles = []

    def loop(pause):
        while True:
            pause()
            with record_function("long"), record_function("inside"):
                time.sleep(0.04)
            for _ in range(2):
                with record_function("short"):
                    time.sleep(0.005)
            time.sleep(0.01)

    take_turns({"": training_parts._profiled(loop, CPU, profiles)}, CPU, repeats=3)
    shares = training_parts._shares(profiles[0].events(), CPU)
    # The most expensive comes first.
    assert [name for name in shares if name != "rest of the step"] == ["long", "short"]
    # The first range of a step is that of the second turn, which warms up.
    assert {len(each) for each in shares.values()} == {3}
    assert all(share > 0 for each in shares.values() for share in each)
    assert [sum(each) for each in zip(*shares.values(), strict=True)] == pytest.approx([1.0] * 3)


def test_a_range_on_a_gpu_has_the_kernels_that_any_thread_launches_in_its_time():
    def event(name: str, start: float, end: float, kernels_us: float = 0.0, **more):
        return SimpleNamespace(
            name=name,
            time_range=SimpleNamespace(start=start, end=end),
            self_device_time_total=kernels_us,
            device_type=SimpleNamespace(name="CPU"),
            **more,
        )

    forward = event("forward", 1, 4, is_user_annotation=True)
    backward = event("backward", 5, 8, is_user_annotation=True)
    launches = [event("conv", 2, 3, 10.0), event("other thread", 6, 7, 20.0), event("", 9, 9, 10.0)]
    steps = [event("whole step", 0, 10, cpu_children=[forward, backward]) for _ in range(2)]
    events = [*steps, forward, backward, *launches]
    shares = training_parts._shares(events, torch.device("cuda"))
    assert shares == {"backward": [0.5], "forward": [0.25], "rest of the step": [0.25]}


def turns(*seconds: float, in_rounds: bool = False) -> Times:
    peaks = {"peak_host_gib": 1.0}
    taken = [Taken(wall_s=2 * each, cpu_s=each, peaks=peaks) for each in seconds]
    return Times(turns=taken, in_rounds=in_rounds)


def test_a_row_has_median_and_quartiles_by_its_clock():
    row = Row(part="p", what="w", images=6, flops_per_image=10.0, peak_flops=100.0)
    done = measured(row, turns(1.0, 2.0, 3.0), clock="cpu", threads=1)
    assert (done.seconds, done.images_per_s, done.mfu) == (2.0, 3.0, 0.3)
    assert (done.seconds_q1, done.seconds_q3) == quartiles([1.0, 2.0, 3.0])[::2]
    assert measured(row, turns(1.0), clock="wall", threads=1).images_per_s == 3.0


def test_a_ratio_is_taken_within_each_round():
    plain = turns(1.0, 10.0, 100.0, in_rounds=True)
    fast = turns(0.5, 5.0, 50.0, in_rounds=True)
    row = measured(Row(part="p", what="w"), fast, plain, clock="cpu", threads=1)
    assert (row.to_plain_q1, row.to_plain, row.to_plain_q3) == (2.0, 2.0, 2.0)


def test_without_rounds_the_ratio_is_that_of_the_medians():
    row = Row(part="p", what="w")
    row = measured(row, turns(1.0, 3.0, 2.0), turns(4.0, 1.0, 6.0), clock="cpu", threads=1)
    assert (row.to_plain_q1, row.to_plain, row.to_plain_q3) == (None, 2.0, None)


@pytest.mark.parametrize(("in_rounds", "peak_gib"), [(True, None), (False, 1.0)])
def test_peak_memory_is_told_of_what_was_alone_only(in_rounds, peak_gib):
    times = turns(1.0, in_rounds=in_rounds)
    row = measured(Row(part="p", what="w"), times, clock="cpu", threads=1)
    assert row.peak_host_gib == peak_gib


def test_loops_know_whether_others_took_turns_with_them():
    loops = {"a": repeated(int), "b": repeated(int)}
    for together in (True, False):
        times = take_turns(loops, CPU, repeats=1, together=together)
        assert {found.in_rounds for found in times.values()} == {together}
    assert not take_turns({"a": loops["a"]}, CPU, repeats=1)["a"].in_rounds


def test_variants_are_each_factor_alone_and_their_sum():
    names = [variant.name for variant in ladder(["fused optimizer", "bf16"])]
    assert names == ["plain", "plain + fused optimizer", "plain + bf16", "all up to bf16"]
    last = ladder(["fused optimizer", "bf16"])[-1]
    assert (last.fused_optimizer, last.precision) == (True, "bf16")
    assert (PLAIN.compile, PLAIN.fused_optimizer, PLAIN.precision) == (False, False, "fp32")


@pytest.fixture
def benched(write, tree, tmp_path, capsys):
    """Runs the command on the small sweep and gives its rows and its table."""

    def run(*arguments: str):
        tree["trial"]["tokenizer"]["loss"] = {
            "discriminator": {"kind": "patchgan", "num_layers": 1, "base_width": 4}
        }
        tree["grid"] = {"alignment": ["vf"]}
        out = tmp_path / "out"
        code = main([str(write(tree)), "--repeats", "2", "--quick", "--out", str(out), *arguments])
        (table,) = out.glob("*.parquet")
        return code, capsys.readouterr().out, pd.read_parquet(table)

    return run


def test_every_part_is_measured_on_a_sweep_s_own_trial(benched):
    code, out, table = benched("--json", "--device", "cpu")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert {row["part"] for row in rows} == PARTS
    assert {row["status"] for row in rows} == {"measured"}
    assert len(table) == len(rows)
    assert table["git_revision"].nunique() == 1
    steps = [row for row in rows if row["part"] == "tokenizer training"]
    assert {"plain", "plain + bf16", "plain + channels last"} <= {row["variant"] for row in steps}
    assert all(row["repeats"] == 2 and row["to_plain"] > 0 for row in steps)
    assert all("measured here" in row["peak_name"] for row in steps)
    trained = [row for row in rows if row["part"] in ("tokenizer training", "generator training")]
    assert {row["images"] for row in trained} == {8}
    waits = [row["data_wait"] for row in rows if "streamed" in row["variant"]]
    assert all(0 <= share < 1 for share in waits)
    assert len(waits) == 1


def test_what_takes_too_long_is_a_row_with_its_reason(benched):
    code, out, table = benched("--only", "generator", "--limit-s", "1e-9")
    assert code == 0
    (row,) = table.to_dict("records")
    assert row["status"] == "skipped"
    assert "--limit-s" in row["reason"]
    assert "skipped: " in out


@pytest.mark.parametrize("sizes", [["pico", "nano", "mini"], []])
def test_quick_cuts_the_default_sizes_and_no_others(sizes, tmp_path):
    named = ["--sizes", *sizes] if sizes else []
    out = tmp_path / "out"
    request = ["--only", "generator", "--quick", "--limit-s", "1e-9", "--out", str(out), *named]
    assert main(request) == 0
    (table,) = out.glob("*.parquet")
    expected = [f"LightningDiT {name}/1" for name in sizes or ["pico", "nano"]]
    assert pd.read_parquet(table)["what"].tolist() == expected


def test_a_batch_size_and_threads_reach_what_is_used_and_read(benched):
    only = ("--only", "encoding", "sampling", "metrics", "data")
    _, _, table = benched("--batch-size", "3", "--threads", "2", "--device", "cpu", *only)
    assert set(table["images"]) == {3}
    reading = table[table["part"] == "data pipeline"]["configuration"]
    assert {json.loads(each)["decode_workers"] for each in reading} == {2}


def test_a_batch_that_finds_no_memory_is_computed_in_slices(benched, monkeypatch):
    forward = LightningDiT.forward

    def short_of_memory(self, latents, *arguments):
        if self.training and len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, latents, *arguments)

    monkeypatch.setattr(LightningDiT, "forward", short_of_memory)
    monkeypatch.setattr(Bench, "factors", lambda *_: ["fused optimizer"])
    code, _, table = benched("--only", "generator", "--batch-size", "8", "--device", "cpu")
    assert code == 0
    assert set(table["images"]) == {8}
    assert table["reason"].str.contains("every batch in 4 slices").all()
    assert (table["repeats"] == 2).all()


def test_only_so_many_variants_run_side_by_side_as_fit_into_memory(tmp_path, monkeypatch):
    def variants_of(free_gib: float) -> dict[str, int]:
        monkeypatch.setattr(training_parts, "free_memory_gib", lambda _: free_gib)
        out = tmp_path / str(free_gib)
        request = ["--only", "generator", "--sizes", "pico", "nano", "--batch-size", "2"]
        assert main([*request, "--quick", "--repeats", "1", "--out", str(out)]) == 0
        (table,) = out.glob("*.parquet")
        rows = pd.read_parquet(table)
        alone = rows["variant"].str.contains("alone")
        assert rows[alone]["reason"].str.startswith("1,000 latents").all()
        assert rows[alone]["peak_host_gib"].notna().all()
        rows = rows[~alone]
        assert rows["peak_host_gib"].isna().all()
        return dict(Counter(rows[rows["status"] == "measured"]["what"].tolist()))

    pico, nano = "LightningDiT pico/1", "LightningDiT nano/1"
    assert variants_of(0.05) == {pico: 6, nano: 2}
    assert variants_of(0.02) == {pico: 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "tokenizer.latent_dim=4"], "name the sweep file"),
        (["--limit-s", "-3"], "must be a number of seconds above 0 and below 1e9, but got '-3'"),
        (["--repeats", "0"], "must be a whole number of at least 1, but got '0'"),
        (["--threads", "two"], "must be a whole number of at least 1, but got 'two'"),
        (["--device", "cuda"], "it sees none; use auto"),
    ],
)
def test_a_request_that_cannot_be_is_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_table_for_people_shows_spread_and_reasons():
    rows = [
        measured(Row(part="p", what="w", images=6), turns(1.0, 2.0), clock="cpu", threads=1),
        Row(part="p", what="x", status="skipped", reason="too large"),
    ]
    text = as_text(rows, {"device": "d", "threads": 1, "torch": "t", "clock": "cpu"})
    assert "skipped: too large" in text
    assert ".." in text


def test_latents_are_repeated_to_a_set_that_is_read_as_any_other(tmp_path):
    store = Store(tmp_path)
    rows = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 4)
    with store.work("latents", "few") as work:
        tensors = {"latents": rows, "labels": torch.tensor([0, 1, 1])}
        write_tensors(work.payload / "latents_shard00000.safetensors", tensors)
        ones = {"mean": torch.zeros(1, 2, 1, 1), "std": torch.ones(1, 2, 1, 1)}
        write_tensors(work.payload / "statistics.safetensors", ones)
        layout = {"groups": [{"name": "latent", "channels": 2}], "height": 4, "width": 4}
        result = {"num_images": 3, "label_counts": [1, 2], "views": ["latents"], "layout": layout}
        latents = {"posterior": "sample", "source": {"kind": "encoded"}}
        few = work.publish({"config": {"latents": latents}, "result": result})
    many = enlarged(store, few, 10_001)
    assert many.result["label_counts"] == [3334, 6667]
    assert size_of(many).startswith("10,001 latents, ")
    assert size_of(many).endswith("in 2 shards")
    latents = LatentSet(many, CPU, on_device=False)
    batch, labels = latents.batch(np.array([10_000, 4]), np.zeros(2, dtype=np.int64))
    assert batch[:, 0, 0, 0].tolist() == [1.0, 1.0]
    assert labels.tolist() == [1, 1]
    assert enlarged(store, few, 3) is few
    assert enlarged(store, few, 10_001).path == many.path
