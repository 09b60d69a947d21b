"""Stop requests: a driver asks its running stages to write a checkpoint and end.

The request travels through the store, as progress does, so that it reaches stages in this process,
in others and on other machines alike. The file is there from the start and is written in place:
opening a file that exists asks the server of a network file system for its present state, while a
file that was absent a moment ago may be taken for absent for half a minute.
"""

import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

FOLDER = ".drivers"
"""Folder of the store that holds a file for each driver that runs: `<host>-<process>-<digits>`."""
POLL_S = 1.0
"""Seconds between two looks of a running stage at its driver's file."""

INTERRUPTED = "interrupted"
"""Reason of a request by signal."""
TIME_UP = "time limit"
"""Reason of a request by `--time-limit`."""
ONCE = (
    "stopping: no further stage is started; running stages write a checkpoint and end, and the few "
    "that have none start anew next time. Press Ctrl-C again to stop now, at the cost of the work "
    "since the last checkpoint"
)
"""Shown to the user at the first signal."""


class StopRequested(Exception):
    """A stage ended because its driver asked it to; its checkpoint is written."""


class StopRequest:
    """A driver's request that its stages stop, and the file that carries it to them."""

    def __init__(self, store_root: Path) -> None:
        # `leftovers` reads host and process from this name.
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = store_root.resolve() / FOLDER / name
        self.reason = ""
        """Why to stop, in words; empty while nobody has asked."""

    @property
    def is_requested(self) -> bool:
        """Whether somebody has asked."""
        return bool(self.reason)

    def request(self, reason: str) -> None:
        """Ask all running stages to end; the first reason stays."""
        self.reason = self.reason or reason
        # Where the store has gone, the stages notice by themselves.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text("stop", encoding="utf-8")

    @contextlib.contextmanager
    def open(self) -> Iterator["StopRequest"]:
        """Keep the file until the block ends."""
        for _ in range(3):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Another driver that ends at this moment may have removed the empty folder.
            with contextlib.suppress(FileNotFoundError):
                self.path.write_text("stop" if self.reason else "run", encoding="utf-8")
                break
        try:
            yield self
        finally:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
                self.path.parent.rmdir()


def is_requested(path: Path) -> bool:
    """Whether the driver that owns this file has asked its stages to stop."""
    try:
        return path.read_text(encoding="utf-8") == "stop"
    # A driver that was killed, or a disk that does not answer, asks for nothing.
    except OSError:
        return False


@contextlib.contextmanager
def on_signals(stop: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Take Ctrl-C, SIGTERM and a closed terminal as a request to stop; a second Ctrl-C or SIGTERM
    interrupts at once. `say` is called within a signal handler."""
    # Python lets only the main thread set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        # A terminal that is closed sends several.
        received += number != signal.SIGHUP
        # The second Ctrl-C is from somebody who does not want to wait.
        if received > 1:
            raise KeyboardInterrupt
        stop.request(INTERRUPTED)
        say(ONCE)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Under nohup a run is meant to outlive its terminal.
        numbers.remove(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
