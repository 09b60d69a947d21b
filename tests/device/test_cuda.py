"""What only a GPU can show; `first_call.sh` runs these tests on one that is lent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.execution.stage_run import run_stage
from harness.machine.float32 import exact_float32, tf32_products
from harness.machine.metering import lost_device
from harness.plan.plan import make_plan
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SWEEP = Path(__file__).parents[2] / "sweeps" / "frontier.yaml"
SETTINGS = (
    "grid.alignment=[none]",
    "tokenizer.training={steps: 10, batch_size: 16, learning_rate: 2e-3}",
    "generator.training={steps: 8, batch_size: 1024, learning_rate: 1e-3}",
)


@pytest.fixture
def all_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def bring(stage: Stage, store: Store, gpus: float = 1.0) -> Artifact:
    for source in stage.inputs.values():
        bring(source, store)
    outcome = run_stage(stage, store.root, Resources(), gpus)
    assert outcome.status in ("done", "reused"), outcome.error
    return store.get(stage.kind, stage.key)


def test_products_are_exact_where_they_must_be_and_rounded_where_they_may():
    random = torch.Generator(device="cuda").manual_seed(0)
    left, right = (torch.randn(512, 512, generator=random, device="cuda") for _ in range(2))
    exact = left.double() @ right.double()
    with tf32_products():
        rounded = (left @ right - exact).abs().max()
        with exact_float32():
            assert (left @ right - exact).abs().max() < 1e-3
        assert (left @ right - exact).abs().max() == rounded
    assert rounded > 1e-3


def test_what_is_compiled_is_not_compiled_again_after_an_extraction():
    counter = CompileCounter()
    double = torch.compile(lambda x: 2 * x, backend=counter)
    double(torch.ones(3, device="cuda"))
    with exact_float32():
        pass
    double(torch.ones(3, device="cuda"))
    assert counter.frame_count == 1


@pytest.mark.usefixtures("all_memory")
def test_a_batch_that_does_not_fit_is_sliced_until_it_does(tmp_path):
    plan = make_plan(load_sweep(SWEEP, SETTINGS))
    stage = next(stage for stage in plan.stages if stage.kind == "generator")
    whole = bring(stage, Store(tmp_path / "whole"))
    store = Store(tmp_path / "sliced")
    for source in stage.inputs.values():
        bring(source, store)
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    peak = whole.record["cost"]["peak_device_gib"]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.4 * peak / total)
    sliced = bring(stage, store)
    assert sliced.record["cost"]["slices"] >= 2
    assert not lost_device()
    (name,) = [name for name in whole.record["files"] if name.endswith(".safetensors")]
    theirs = whole.tensors(name)
    for key, value in sliced.tensors(name).items():
        assert float((value - theirs[key]).abs().max()) < 1e-3, key
