"""Checkpoints: what is saved comes back bit for bit, and a damaged file is passed over."""

import pytest
import torch
from torch import nn

from harness.checkpoints import load_checkpoint, save_checkpoint


def equal(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right) and left.dtype == right.dtype
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def test_nested_state_with_an_optimizer_survives(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "empty": {},
        "scalars": [1, 2.5, None, True, "text"],
    }
    save_checkpoint(tmp_path, 5, state)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    step, back = loaded
    assert step == 5
    assert equal({**back, "model": dict(back["model"])}, {**state, "model": dict(state["model"])})
    optimizer.load_state_dict(back["optimizer"])


def test_the_last_two_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"weight": torch.full((1,), float(step))})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        f"step-{step:09d}.{end}" for step in (2, 10) for end in ("json", "safetensors")
    ]
    assert load_checkpoint(tmp_path) == (10, {"weight": torch.tensor([10.0])})


@pytest.mark.parametrize("damage", ["truncated", "altered", "absent", "unsealed"])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"weight": torch.full((64,), float(step))})
    newest = tmp_path / "step-000000002.safetensors"
    content = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(content[:-7])
    elif damage == "altered":
        newest.write_bytes(content[:-1] + b"\x01")
    elif damage == "absent":
        newest.unlink()
    else:
        newest.with_suffix(".json").write_text('{"step": 2')
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0] == 1


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path) is None
