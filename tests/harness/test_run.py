"""The command on a small sweep: what it runs, what it repeats and what it leaves behind."""


def test_a_small_sweep_runs_and_repeats_nothing(command, write, tree):
    tree["grid"] = {"alignment": ["none", "vf"]}
    path = write(tree)
    first = command(path)
    assert first.code == 0, first.err
    assert "executed 12 stages, reused 0" in first.out
    second = command(path)
    assert second.code == 0
    assert "executed 0 stages, reused 12" in second.out
