"""Asks whether the head of a Ray cluster answers, before calls that would wait for it.

Where the head has ended, Ray's own calls wait, and after a minute Ray ends the process from within,
so that no error is told and no table written. Imports no Ray.
"""

import socket
import time

PATIENCE_S = 20.0
"""Seconds without an answer after which the head is given up; Ray gives up after 60."""
CONNECT_S = 2.0
"""Seconds that the head has to accept a connection."""
POLL_S = 0.5
"""Seconds between two attempts while nothing can be done without the head."""


class Head:
    """The server that knows the cluster's machines (Ray's GCS)."""

    def __init__(self, address: str, *, shared: bool) -> None:
        """`address` is `HOST:PORT`; a `shared` head is a cluster's, not started by this command."""
        host, _, port = address.rpartition(":")
        self.address, self.shared = address, shared
        self._place = (host.strip("[]"), int(port))
        self._silent_since: float | None = None

    def look(self) -> bool:
        """Whether the head answers; ConnectionError where it has not for too long."""
        # A plain connection, because Ray's own calls would wait for the head themselves.
        try:
            with socket.create_connection(self._place, timeout=CONNECT_S):
                self._silent_since = None
                return True
        except OSError as error:
            now = time.monotonic()
            self._silent_since = now if self._silent_since is None else self._silent_since
            if now - self._silent_since < PATIENCE_S:
                return False
            raise ConnectionError(self._message(error)) from error

    def require(self) -> None:
        """Wait until the head answers."""
        while not self.look():
            time.sleep(POLL_S)

    def _message(self, error: OSError) -> str:
        told = f"({type(error).__name__}: {error})"
        whose = "of the cluster" if self.shared else "that this command started"
        remedy = (
            "start the cluster again (`ray start --head`, then its machines)"
            if self.shared
            else "look for what ended it, such as a lack of memory"
        )
        return (
            f"the head of Ray {whose} must answer at {self.address}, but has not for "
            f"{PATIENCE_S:g} s {told}; {remedy}; trainings go on from their checkpoints"
        )
