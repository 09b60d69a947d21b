"""What a stage kind holds: its own block, over `default`."""

from harness.plan.requests import request_of
from harness.stages.registry import KINDS

ALONE = [name for name, kind in KINDS.items() if not kind.shares_work]


def test_a_kind_that_shares_no_work_takes_one_worker_of_what_is_default(load, tree):
    tree["resources"] = {"default": {"cpus": 2, "gpus": 0, "workers": 4}, "encoder": {"cpus": 3}}
    asked = load().file.resources
    assert request_of("generator", asked).workers == 4
    assert [request_of(kind, asked).workers for kind in ALONE] == [1, 1]
    assert [request_of(kind, asked).cpus for kind in ALONE] == [3, 2]


def test_such_a_kind_takes_one_gpu_of_several_and_a_share_as_it_is(load, tree):
    tree["resources"] = {"default": {"gpus": 8}, "diagnostics": {"gpus": 0.5}}
    asked = load().file.resources
    assert request_of("generator", asked).gpus == 8
    assert request_of("encoder", asked).gpus == 1
    assert request_of("diagnostics", asked).gpus == 0.5
