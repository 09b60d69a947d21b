"""Two drivers on one store and one results folder: each stage is done once, both end well."""

import json

import pytest
from chaos_evidence import Counts, Watch, assert_same_results
from chaos_processes import Command
from chaos_sweeps import long_only


def race(folder, executor: str, *, kill_first_after_s: float | None = None):
    arguments = ["small.yaml", "--executor", executor, "--json"]
    with Watch(folder) as watch:
        racers = [Command(folder, arguments) for _ in range(2)]
        if kill_first_after_s is not None:
            racers[0].wait_until_working(60)
            racers[0].kill(racers[0].members())
            racers = racers[1:]
        codes = [racer.process.wait(timeout=300) for racer in racers]
        for racer in racers:
            racer.end()
    assert codes == [0] * len(racers), [racer.err.read_text()[-2000:] for racer in racers]
    for racer in racers:
        assert {row["status"] for row in json.loads(racer.out.read_text())["rows"]} == {"done"}
    return Counts.of(folder, 2 - len(racers), watch)


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=long_only)])
def test_two_drivers_do_each_stage_once(folder, small_undisturbed, executor):
    counts = race(folder, executor)
    print(counts)
    assert counts.attempts == counts.stages
    assert (counts.repeated, counts.lost) == (0, 0)
    assert_same_results(folder, small_undisturbed)


@long_only
def test_a_dead_drivers_stage_is_taken_over_by_the_other_one(folder, small_undisturbed):
    counts = race(folder, "inline", kill_first_after_s=0.0)
    print(counts)
    assert (counts.repeated, counts.lost) == (0, 0)
    assert_same_results(folder, small_undisturbed)
