"""Optimisers that are stored and restored."""

import copy

import pytest
import torch
from torch import nn

from harness.checkpoints import load_checkpoint, save_checkpoint
from harness.training import restore_optimizer


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
