"""Two executors of a plan behind one interface: on Ray, or in this process."""

from harness.executors.interface import Capacity, Executor, Feed, Listener, StageEvent

__all__ = ["Capacity", "Executor", "Feed", "Listener", "StageEvent"]
