"""Checkpoints: what is saved comes back bit for bit, and a damaged file is passed over."""

import errno
import threading

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from harness.storage.artifacts import write_tensors
from harness.storage.checkpoints import (
    BESIDE,
    CheckpointWriter,
    load_checkpoint,
    newest_step,
    save_checkpoint,
)
from harness.storage.durable import StorageError


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


def flip(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def damage(newest, how: str) -> None:
    seal = newest.with_suffix(".json")
    if how == "truncated":
        newest.write_bytes(newest.read_bytes()[:-7])
    elif how == "flipped in the tensors":
        flip(newest, -1)
    elif how == "flipped in the numbers":
        flip(newest, newest.read_bytes().index(b"rate") + 20)
    elif how == "absent":
        newest.unlink()
    elif how == "seal torn":
        seal.write_text('{"step": 2')
    elif how == "seal flipped":
        flip(seal, seal.read_bytes().index(b"sha256") + 20)
    elif how == "unsealed":
        seal.unlink()


DAMAGES = (
    "truncated",
    "flipped in the tensors",
    "flipped in the numbers",
    "absent",
    "seal torn",
    "seal flipped",
)


@pytest.mark.parametrize("how", [*DAMAGES, "unsealed"])
def test_a_damaged_newest_checkpoint_is_passed_over_for_good(tmp_path, how):
    for step in (1, 2):
        state = {"weight": torch.full((64,), float(step)), "rate": 0.125}
        save_checkpoint(tmp_path, step, state)
    damage(tmp_path / "step-000000002.safetensors", how)
    told = []
    loaded = load_checkpoint(tmp_path, warn=told.append)
    assert loaded is not None
    assert loaded[0] == 1
    # A kill between file and seal is no damage.
    assert ["step-000000002" in text for text in told] == ([] if how == "unsealed" else [True])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000001.json", "step-000000001.safetensors"]


def test_damaged_checkpoints_do_not_count_among_those_kept(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, step, {"weight": torch.ones(4)})
    damage(tmp_path / "step-000000020.safetensors", "truncated")
    load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, 15, {"weight": torch.ones(4)})
    assert [p.stem for p in sorted(tmp_path.glob("*.json"))] == ["step-000000010", "step-000000015"]


def test_without_a_whole_checkpoint_the_stage_starts_anew_and_says_so(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"weight": torch.ones(4)})
        damage(tmp_path / f"step-{step:09d}.safetensors", "truncated")
    told = []
    assert load_checkpoint(tmp_path, warn=told.append) is None
    assert ["passed over" in text for text in told] == [True, True, False]
    assert "starts anew" in told[-1]


@pytest.mark.parametrize("how", ["altered", "absent"])
def test_a_checkpoint_whose_payload_files_are_not_as_they_were_is_passed_over(tmp_path, how):
    folder, payload = tmp_path / "checkpoints", tmp_path / "payload"
    folder.mkdir()
    payload.mkdir()
    save_checkpoint(folder, 1, {"weight": torch.ones(4)}, payload)
    snapshot = payload / "ema.safetensors"
    write_tensors(snapshot, {"weight": torch.ones(4)})
    save_checkpoint(folder, 2, {"weight": torch.ones(4)}, payload)
    if how == "altered":
        flip(snapshot, -1)
    else:
        snapshot.unlink()
    told = []
    loaded = load_checkpoint(folder, payload=payload, warn=told.append)
    assert loaded is not None
    assert loaded[0] == 1
    assert "the payload file ema.safetensors must have sha256" in told[0]


def test_a_checkpoint_relies_on_the_files_beside_it_and_on_no_later_ones(tmp_path):
    folder, payload = tmp_path / "checkpoints", tmp_path / "payload"
    beside = folder / BESIDE
    beside.mkdir(parents=True)
    payload.mkdir()
    for step in (1, 2):
        (beside / f"{step}.rgb").write_bytes(bytes(100))
        save_checkpoint(folder, step, {"weight": torch.ones(4)}, payload)
    (beside / "3.rgb").write_bytes(b"unfinished")
    loaded = load_checkpoint(folder, payload=payload)
    assert loaded is not None
    assert loaded[0] == 2
    flip(beside / "2.rgb", -1)
    told = []
    loaded = load_checkpoint(folder, payload=payload, warn=told.append)
    assert loaded is not None
    assert loaded[0] == 1
    assert "the beside file 2.rgb must have sha256" in told[0]


def test_a_checkpoint_that_finds_no_room_leaves_those_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"weight": torch.ones(4)})

    def refuse(*_: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", refuse)
        with pytest.raises(StorageError, match=r"step-000000002.* MiB free.*free space") as caught:
            save_checkpoint(tmp_path, 2, {"weight": torch.ones(4)})
    assert caught.value.errno == errno.ENOSPC
    assert len(list(tmp_path.iterdir())) == 2
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0] == 1


def test_one_is_written_beside_the_training_as_the_state_was(tmp_path, monkeypatch):
    folder, payload = tmp_path / "checkpoints", tmp_path / "payload"
    folder.mkdir()
    payload.mkdir()
    go, original, writer = threading.Event(), safetensors.torch.save_file, CheckpointWriter()

    def save_file(*arguments):
        assert go.wait(30)
        original(*arguments)

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    weight = torch.ones(4)
    writer.save(folder, 1, {"weight": weight}, payload)
    # The training goes on while the file is not there.
    weight += 1
    (payload / "later.txt").write_text("a snapshot of a later step")
    assert newest_step(folder) == -1
    threading.Timer(0.2, go.set).start()
    # A second one waits for the first.
    writer.save(folder, 2, {"weight": weight}, payload)
    assert newest_step(folder) >= 1
    writer.close(pytest.fail)
    (payload / "later.txt").unlink()
    newest = load_checkpoint(folder, payload=payload)
    assert newest is not None
    assert newest[0] == 1  # The second relies on the snapshot.
    assert newest[1]["weight"].tolist() == [1.0] * 4


def test_what_the_writing_meets_is_raised_by_the_next_checkpoint_or_told_at_the_end(
    tmp_path, monkeypatch
):
    def refuse(*_: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    writer, told = CheckpointWriter(), []
    writer.save(tmp_path, 1, {}, tmp_path)
    with pytest.raises(StorageError, match=r"step-000000001.*No space left"):
        writer.save(tmp_path, 2, {}, tmp_path)
    writer.wait()  # Told once.
    writer.save(tmp_path, 2, {}, tmp_path)
    writer.close(told.append)
    assert "step-000000002" in told[0]


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_the_newest_step_is_read_from_names_and_strange_ones_are_passed_over(tmp_path):
    assert newest_step(tmp_path / "absent") == -1
    for name in ("step-000000010.json", "step-000000200.json", "step-000000300 (copy).json"):
        (tmp_path / name).touch()
    assert newest_step(tmp_path) == 200
