"""Optimisers that are stored and restored."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.config.training import TrainingConfig
from harness.machine.float32 import exact_float32
from harness.machine.gradients import GradientSum
from harness.machine.world import World
from harness.schema.reading import ConfigError, validate
from harness.stages.running.optimisation import (
    arithmetic,
    backward,
    end_step,
    optimizer_settings,
    restore_optimizer,
    start_step,
)
from harness.storage.checkpoints import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_goes_on_in_any_memory_format(layout, tmp_path):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3).to(memory_format=layout)
    images = torch.randn(2, 3, 5, 5)

    def step(network: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()

    adam = torch.optim.Adam(first.parameters(), fused=True)
    step(first, adam)
    second = copy.deepcopy(first)
    save_checkpoint(tmp_path, 1, {"adam": adam.state_dict()})
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    restored = torch.optim.Adam(second.parameters(), fused=True)
    restore_optimizer(restored, loaded[1]["adam"])
    for network, optimizer in ((first, adam), (second, restored)):
        step(network, optimizer)
    assert torch.equal(first.weight, second.weight)
    moment = restored.state[second.weight]["exp_avg"]
    assert moment.is_contiguous(memory_format=layout)


def test_a_fused_optimizer_steps_like_the_plain_one():
    torch.manual_seed(0)
    training = TrainingConfig(steps=3, batch_size=4, learning_rate=1e-2, weight_decay=0.1)
    first = nn.Linear(5, 3)
    second = copy.deepcopy(first)
    inputs = torch.randn(4, 5)
    for network, fused in ((first, False), (second, True)):
        adam = torch.optim.AdamW(network.parameters(), **optimizer_settings(training, fused=fused))
        for step in range(3):
            start_step(adam, training, step)
            backward(network(inputs).square().sum(), training)
            end_step(adam, training, GradientSum(network.parameters(), World()))
    torch.testing.assert_close(first.weight, second.weight)


def test_tf32_holds_inside_only_and_leaves_the_setting_as_it_was():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with arithmetic("tf32", torch.device("cpu")):
        assert matmul.allow_tf32
    assert matmul.allow_tf32 == before
    # Exact extraction within TF32 leaves the setting readable, and each of its flags as it was.
    flag = getattr(matmul, "fp32_precision", None)
    with arithmetic("tf32", torch.device("cpu")):
        inside = getattr(matmul, "fp32_precision", None)
        with exact_float32():
            assert not matmul.allow_tf32
        assert (matmul.allow_tf32, getattr(matmul, "fp32_precision", None)) == (True, inside)
    with exact_float32():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "highest"
    assert getattr(matmul, "fp32_precision", None) == flag
    with arithmetic("bf16", torch.device("cpu")):
        assert matmul.allow_tf32 == before
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("length", ["small", "official"])
def test_semvae_s_schedule_is_the_published_one(length):
    shared = Path(os.environ.get("FRONTIER_SHARED", Path(__file__).parents[3].parent / "shared"))
    file = shared / "fixtures" / "variants" / "sfd_fixtures.json"
    if not file.is_file():
        pytest.skip(f"the reference is not at {file}")
    published = json.loads(file.read_text())["sfd_semvae"]["learning_rate_schedule"][length]
    training = TrainingConfig(
        steps=published["total"],
        batch_size=64,
        learning_rate=published["base"],
        warmup_steps=published["warmup"],
        warmup_start=0.01,
        constant_steps=published["constant"],
        schedule="cosine",
        final_share=0.1,
    )
    for step, rate in published["lr_at_iteration"].items():
        assert training.learning_rate_at(int(step)) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("constant_steps", {"constant_steps": 9}),
        ("constant_steps", {"constant_steps": 2, "schedule": "constant"}),
        ("warmup_start", {"warmup_start": 1.5}),
        ("final_share", {"final_share": -0.1}),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(field, changed):
    tree = {"steps": 10, "batch_size": 1, "learning_rate": 1.0, "warmup_steps": 3}
    with pytest.raises(ConfigError, match=field):
        validate(TrainingConfig, {**tree, "schedule": "cosine", **changed})
