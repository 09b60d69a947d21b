"""Options of speed leave a training where it was, up to rounding."""

import json

import pytest

from harness.execution import run_stage
from harness.plan import Stage, make_plan
from harness.store import Store
from harness.sweep import Resources

CPU = 0.0
ADVERSARY = "tokenizer.loss={discriminator: {kind: patchgan, num_layers: 1, base_width: 4}}"


def bring(stage: Stage, store: Store, resources: Resources) -> None:
    for source in stage.inputs.values():
        bring(source, store, Resources())
    outcome = run_stage(stage, store.root, resources, CPU)
    assert outcome.status in ("done", "reused"), outcome.error


def curve(stage: Stage, store: Store) -> list[dict[str, float]]:
    path = store.get(stage.kind, stage.key).path / "curve.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("kind", "resources", "tolerance"),
    [
        ("tokenizer", Resources(channels_last=True), 1e-3),
        ("tokenizer", Resources(fused_optimizer=False), 1e-3),
        ("generator", Resources(fused_optimizer=False), 1e-3),
        ("generator", Resources(latents_on_device=False), 0.0),
    ],
)
def test_a_faster_step_has_the_losses_of_the_plain_one(kind, resources, tolerance, load, tmp_path):
    plan = make_plan(load("grid.alignment=[vf]", ADVERSARY))
    stage = next(each for each in plan.stages if each.kind == kind)
    found = []
    for name, used in (("plain", Resources()), ("fast", resources)):
        store = Store(tmp_path / name)
        bring(stage, store, used)
        found.append(curve(stage, store))
    assert len(found[0]) > 2
    for plain, fast in zip(*found, strict=True):
        assert fast == pytest.approx(plain, rel=tolerance, abs=tolerance)
