"""What a stage kind holds: its own block, over `default`."""

from pathlib import Path

import pytest

from harness.config.sweep import load_sweep
from harness.plan.plan import make_plan
from harness.plan.requests import request_of
from harness.plan.requirements import say_missing
from harness.results.rows import make_row
from harness.stages.registry import KINDS
from harness.storage.artifacts import Store

SFD = Path(__file__).parents[3] / "sweeps/sfd_released.yaml"
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


def test_a_missing_file_is_named_where_the_sweep_has_it():
    plan = make_plan(load_sweep(SFD))
    told = "\n".join(say_missing(plan.stages, plan))
    for path in ("texture.checkpoint", "semantic.checkpoint", "semantic.encoder.weights"):
        assert f"`tokenizer.{path}`" in told, told
    assert "`tokenizer.checkpoint`" not in told
    assert "`presets.model.1p0b_800ep.generator.checkpoint`" in told
    assert "`generator.checkpoint`" not in told
    weak = [line for line in told.splitlines() if "sfd/b_70k.pt" in line]
    assert "`presets.model.xl_80ep.evaluation.guidance.weak.generator.checkpoint`" in weak[0]


@pytest.mark.parametrize(
    ("weak", "provenance"), [("sfd/b.pt", "published"), ("null", "reproduced")]
)
def test_a_row_guided_by_a_model_trained_here_is_not_published(tmp_path, weak, provenance):
    guided = (
        "evaluation.guidance=[{kind: autoguidance, scale: 1.5, weak: {generator.size: B,"
        f" generator.checkpoint: {weak}}}}}]"
    )
    sweep = load_sweep(SFD, [f"presets.model.xl_80ep.{guided}"])
    row = make_plan(sweep).rows[0]
    values = make_row(row, sweep, Store(tmp_path), {})
    assert (values["guidance"], values["provenance"]) == ("autoguidance 1.5", provenance)
