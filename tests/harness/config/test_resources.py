"""What a stage kind holds: its own block, over `default`."""

from harness.config.resources import ONE_WORKER_KINDS


def test_a_kind_that_shares_no_work_takes_one_worker_of_what_is_default(load, tree):
    tree["resources"] = {"default": {"cpus": 2, "gpus": 0, "workers": 4}, "encoder": {"cpus": 3}}
    file = load().file
    assert file.resources_of("generator").workers == 4
    assert [file.resources_of(kind).workers for kind in ONE_WORKER_KINDS] == [1, 1]
    assert [file.resources_of(kind).cpus for kind in ONE_WORKER_KINDS] == [3, 2]


def test_such_a_kind_takes_one_gpu_of_several_and_a_share_as_it_is(load, tree):
    tree["resources"] = {"default": {"gpus": 8}, "diagnostics": {"gpus": 0.5}}
    file = load().file
    assert file.resources_of("generator").gpus == 8
    assert file.resources_of("encoder").gpus == 1
    assert file.resources_of("diagnostics").gpus == 0.5
