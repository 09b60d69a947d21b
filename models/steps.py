"""How far the drawing of one batch is, which may take minutes."""

from collections.abc import Callable
from contextvars import ContextVar

LISTENER = ContextVar[Callable[[int, int], None]]("listener", default=lambda _step, _of: None)
"""Told which step begins, of how many; 0 where the solver chooses. Nothing waits for the device."""
