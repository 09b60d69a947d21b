"""Requests at random: each is planned, or refused in words, within seconds, and writes nothing.

`FRONTIER_HOSTILE_S` is the time for it and `FRONTIER_HOSTILE_SEED` where it begins; `make chaos`
goes on for half an hour from a seed of its own.
"""

import copy
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import harness.evaluate
import harness.run
import harness.tune

from .requests_at_random import Request, Requests

pytestmark = pytest.mark.usefixtures("little_memory")

SECONDS = float(os.environ.get("FRONTIER_HOSTILE_S", "12"))
SEED = int(os.environ.get("FRONTIER_HOSTILE_SEED", "0"))
MOST_S = 10.0
"""Seconds of one core that a request may take."""
COMMANDS = {"run": harness.run.main, "tune": harness.tune.main, "evaluate": harness.evaluate.main}


class TooSlow(BaseException):
    """No `except Exception` of the program takes it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def end(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(request: Request, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code, and what is wrong with how the command ended; empty where nothing is."""
    Path("s.yaml").write_text(request.text, encoding="utf-8")
    arguments = ["tokenizer"] if request.command == "evaluate" else []
    arguments += ["s.yaml", "--executor", "inline", "--dry-run"]
    arguments += [word for setting in request.settings for word in ("--set", setting)]
    try:
        with at_most(MOST_S):
            code: object = COMMANDS[request.command](arguments)
    except SystemExit as exit_:
        code = exit_.code
    except TooSlow:
        return None, f"took more than {MOST_S:g} s"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    said = capsys.readouterr().err
    if re.search("MemoryError|allocate memory", said):
        return code, f"takes more memory than it may: {said[:300]}"
    if written := [path.name for path in Path().iterdir() if path.name != "s.yaml"]:
        return code, f"wrote {written}"
    if code == 2 and not ("error: " in said and ("s.yaml" in said or "--set" in said)):
        return code, f"does not say where: {said[:300]}"
    return code, "" if code in (0, 2) else f"ended with {code}: {said[:300]}"


def test_every_request_is_planned_or_refused(tree, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    search = copy.deepcopy(tree)
    del search["grid"]
    search |= {"search": {"tokenizer.training.learning_rate": {"log": [1e-4, 1e-2]}}}
    search |= {"num_trials": 3}
    until, codes = time.monotonic() + SECONDS, Counter[object]()
    print(f"requests from FRONTIER_HOSTILE_SEED={SEED}")
    for number, request in enumerate(Requests(SEED, tree, search)):
        if time.monotonic() > until:
            break
        code, wrong = outcome(request, capsys)
        codes[code] += 1
        assert not wrong, f"request {number} of seed {SEED} {wrong}\n{request}"
    print(f"{sum(codes.values())} requests ended with {dict(codes)}")
    # Not all is refused for one reason, nor everything let through.
    assert codes[2] > codes[0] > 0
