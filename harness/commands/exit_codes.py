"""Exit codes of the commands; what ends a command early is told in words."""

import sys
from collections.abc import Callable

from harness.schema.reading import ConfigError

EXIT_DONE, EXIT_ROWS_FAILED, EXIT_WRONG_REQUEST, EXIT_UNFINISHED = 0, 1, 2, 3
EXIT_TIME_LIMIT = 124
"""As of the command `timeout`."""
EXIT_INTERRUPTED = 130


class Interrupted(KeyboardInterrupt):
    """A run was ended by a signal, after its stages had written their checkpoints."""


class TimeUp(Interrupted):
    """A run was ended so by its `--time-limit`."""


def exit_code(work: Callable[[], int]) -> int:
    """The exit code of a command; a wrong request and an interruption are told in words."""
    try:
        return work()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    except OSError as error:
        print(
            f"error: {error}; what is finished is kept: run the same command again to continue",
            file=sys.stderr,
        )
        return EXIT_ROWS_FAILED
    except KeyboardInterrupt as error:
        is_late = isinstance(error, TimeUp)
        why = "the time limit has passed" if is_late else "interrupted"
        print(
            f"\n{why}: finished stages are kept, training goes on from its last checkpoint; "
            "run the same command again to continue",
            file=sys.stderr,
        )
        return EXIT_TIME_LIMIT if is_late else EXIT_INTERRUPTED
