"""The commands under one name: `frontier COMMAND ...`, or `python -m harness COMMAND ...`.

`frontier` works in any folder, whatever packages lie there: Python puts the working directory on
its path for `python -m` only.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": ("harness.run", "run a sweep, or finish it, and draw its frontier"),
    "tune": ("harness.tune", "search settings of a trial with Optuna"),
    "evaluate": ("harness.evaluate", "score images and networks that were not trained here"),
    "status": ("harness.status", "say how a sweep or search stands"),
    "store": ("harness.store", "say what lies in a store, and remove what no results need"),
    "report": ("analysis.report", "draw figures and a page from tables of results"),
    "compare": ("analysis.compare", "say what has changed between two tables"),
    "bench": ("harness.bench", "measure speed and memory of this machine"),
    "export_latents": ("harness.export_latents", "write latents in the published layout"),
    "check": ("harness.check", "try the parts of a sweep, kinds of your own among them"),
}
"""Name of a command -> its module, imported when it is asked for, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, or 2 where there is no such command."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        valid = ", ".join(COMMANDS)
        print(f"error: unknown command {name!r}{meant} (valid: {valid})", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name][0]).main(rest)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: frontier COMMAND ...",
            "",
            *lines,
            "",
            "`frontier COMMAND --help` tells a command's options; without an installation it is "
            "`python -m harness COMMAND`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
