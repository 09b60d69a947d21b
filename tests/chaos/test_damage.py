"""A flipped byte in a checkpoint or an artifact of real processes: found out, told, and mended."""

import time
from pathlib import Path

import pytest
from chaos_evidence import assert_same_results, records
from chaos_processes import Command
from chaos_sweeps import SMALL, long_only


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    path.write_bytes(content)


def kill_in_training(folder: Path, checkpoints: int) -> list[Path]:
    """Kill a driver once a stage has so many checkpoints; returns their files, newest first."""
    command = Command(folder, SMALL)
    found: list[Path] = []
    try:
        while len(found) < checkpoints and not command.has_ended:
            seals = folder.glob("artifacts/generator/*.partial/checkpoints/step-*.json")
            found = [seal.with_suffix(".safetensors") for seal in sorted(seals, reverse=True)]
            time.sleep(0.01)
        assert not command.has_ended
        command.kill([command.process.pid])
        # Pruning goes on until the very end.
        return sorted(found[0].parent.glob("step-*.safetensors"), reverse=True)
    finally:
        command.end()


@long_only
@pytest.mark.parametrize("flipped", [1, 2], ids=["newest", "both"])
def test_a_flipped_byte_in_a_checkpoint_costs_time_and_nothing_else(
    folder, small_undisturbed, flipped
):
    files = [f for f in kill_in_training(folder, 2) if f.with_suffix(".json").exists()]
    for path in files[:flipped]:
        flip(path)
    again = Command(folder, SMALL)
    assert again.process.wait(timeout=300) == 0
    (record,) = [r for r in records(folder).values() if r["kind"] == "generator"]
    told = [line["text"] for line in record["history"] if line["what"] == "warning"]
    assert sum("is passed over: its sha256 must be" in text for text in told) == flipped
    assert any("starts anew" in text for text in told) == (flipped == len(files))
    assert_same_results(folder, small_undisturbed)


@long_only
def test_a_flipped_byte_in_an_artifact_is_made_anew_with_the_same_bits(folder, small_undisturbed):
    assert Command(folder, SMALL).process.wait(timeout=300) == 0
    (generator,) = (folder / "artifacts" / "generator").iterdir()
    for number, generation in enumerate((folder / "artifacts" / "generation").iterdir()):
        generation.rename(folder / f"away-{number}")
    flip(next(generator.glob("*.safetensors")))
    again = Command(folder, SMALL)
    assert again.process.wait(timeout=300) == 0
    assert "was damaged" in again.err.read_text()
    assert len(list(generator.parent.glob("*.damaged-*"))) == 1
    assert_same_results(folder, small_undisturbed)
