"""Says what a command is doing while it shows nothing else."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_S = 2.5
"""Seconds of silence after which it speaks, and between two lines."""


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Say on standard error what the block does, every few seconds while it lasts."""
    done = threading.Event()

    def speak() -> None:
        seconds = 0.0
        while not done.wait(EVERY_S):
            seconds += EVERY_S
            print(f"{what}, {seconds:.0f} s", file=sys.stderr, flush=True)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()
