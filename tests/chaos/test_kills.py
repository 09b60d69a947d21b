"""Any process may be killed at any moment: the same command goes on, and the bits are the same."""

import os
import random
import time
from collections import Counter
from pathlib import Path

from chaos_evidence import Counts, Watch, assert_same_results
from chaos_processes import Command
from chaos_sweeps import FRONTIER, GANGS, SMALL, long_only

SEED = int(os.environ.get("FRONTIER_CHAOS_SEED", "20261125"))
PATIENCE_S = 20.0
"""Seconds without progress after which the next kill comes anyway."""
VICTIMS = (*("worker",) * 10, *("rank",) * 5, *("driver",) * 6, *("raylet",) * 2, "everything")


def strike(command: Command, victim: str, chance: random.Random) -> int:
    """Kill one of them; a driver takes its own Ray with it sooner or later, like on a machine."""
    if victim in ("worker", "rank"):
        found = command.workers() if victim == "worker" else command.ranks()
        return command.kill([chance.choice(found)]) if found else 0
    if victim == "driver":
        return command.kill([command.process.pid])
    if victim == "raylet":
        return command.kill(command.servers("raylet"))
    command.kill(command.members())
    return 1


def strike_one(command: Command, victims: list[str], chance: random.Random) -> str:
    """Kill the next victim that is there, and take it off the list; empty where none is."""
    for victim in dict.fromkeys(victims):
        if strike(command, victim, chance):
            victims.remove(victim)
            return victim
    return ""


def progress(folder: Path) -> set[Path]:
    """Checkpoints and artifacts that are there."""
    seals = folder.glob("artifacts/*/*.partial/checkpoints/step-*.json")
    return {*seals, *folder.glob("artifacts/*/*/artifact.json")}


def wait_for_progress(command: Command, folder: Path, before: set[Path]) -> None:
    """So that kills are spread over the sweep, whatever a start takes; for a while at most."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not command.has_ended and progress(folder) <= before:
        time.sleep(0.05)


def run_under_kills(
    folder: Path, arguments: list[str], victims: list[str], waits_s: tuple[float, float]
) -> list[str]:
    """Run a command again and again under kills until it ends well; returns who was killed."""
    chance, killed, before = random.Random(SEED), list[str](), set[Path]()
    victims = list(victims)
    commands: list[Command] = []
    try:
        for _ in range(200):
            command = Command(folder, arguments)
            commands.append(command)
            command.wait_until_working(120)
            while not command.has_ended:
                wait_for_progress(command, folder, before)
                time.sleep(chance.uniform(*waits_s))
                before = progress(folder)
                if victim := strike_one(command, victims, chance):
                    killed.append(victim)
                    print(f"kill {len(killed)}: {victim}", flush=True)
            if command.process.returncode == 0:
                return killed
    finally:
        for command in commands:
            command.end()
    raise AssertionError(f"the command never ended well: {commands[-1].err.read_text()[-3000:]}")


def test_killed_drivers_lose_and_repeat_nothing(folder, small_undisturbed):
    with Watch(folder) as watch:
        killed = run_under_kills(folder, SMALL, ["driver"] * 3, (0.0, 1.2))
    counts = Counts.of(folder, len(killed), watch)
    print(counts)
    assert (counts.repeated, counts.lost) == (0, 0)
    assert counts.kills >= 2
    assert_same_results(folder, small_undisturbed)


@long_only
def test_the_frontier_under_twenty_kills_is_the_undisturbed_one_bit_for_bit(frontier, folder):
    victims = list(VICTIMS)
    random.Random(SEED).shuffle(victims)
    started = time.monotonic()
    with Watch(folder) as watch:
        killed = run_under_kills(folder, [*FRONTIER, *GANGS], victims, (1.0, 9.0))
    counts = Counts.of(folder, len(killed), watch)
    print(f"seed {SEED}: {dict(Counter(killed))}", flush=True)
    print(f"{counts}, in {time.monotonic() - started:.0f} s", flush=True)
    assert (counts.repeated, counts.lost) == (0, 0)
    assert counts.kills >= 20
    assert {"worker", "rank", "driver"} <= set(killed)
    assert counts.resumes > 0
    assert_same_results(folder, frontier)
