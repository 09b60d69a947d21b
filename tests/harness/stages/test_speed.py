"""Options of speed leave a training where it was, up to rounding."""

import pytest
import torch

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


@pytest.mark.parametrize(
    ("kind", "weights", "resources"),
    [
        ("tokenizer", "model.safetensors", Resources(channels_last=True)),
        ("tokenizer", "model.safetensors", Resources(fused_optimizer=False)),
        ("generator", "ema-step000000004.safetensors", Resources(fused_optimizer=False)),
        ("generator", "ema-step000000004.safetensors", Resources(latents_on_device=False)),
    ],
)
def test_a_faster_step_learns_the_same(kind, weights, resources, load, tmp_path):
    plan = make_plan(load("grid.alignment=[vf]", ADVERSARY))
    stage = next(each for each in plan.stages if each.kind == kind)
    found = []
    for name, used in (("plain", Resources()), ("fast", resources)):
        store = Store(tmp_path / name)
        bring(stage, store, used)
        found.append(store.get(kind, stage.key).tensors(weights))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
    if not resources.latents_on_device:
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
