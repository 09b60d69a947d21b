"""Two ways to run a plan behind one interface: on Ray, or in this process."""

from harness.executors.interface import Executor, Feed, Listener, StageEvent

__all__ = ["Executor", "Feed", "Listener", "StageEvent"]
