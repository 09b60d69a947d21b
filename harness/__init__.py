"""From a sweep file to a results table: plan, stages, artifacts, executors and commands.

`from harness import open_results` opens in Python what a sweep has left.
"""

import importlib
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.results.opened import open_results

__all__ = ["open_results"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: PyTorch takes seconds, and `--help` and others need none of it.
    if name == "open_results":
        from harness.results.opened import open_results

        return open_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import_own_packages() -> None:
    """Import `models` and `analysis`, which are empty, from beside this package.

    From then on no folder of the user's can take their names, wherever it is put on the path.

    Raises:
        ImportError: Others would be imported; and SystemExit, under `python -m`.
    """
    beside = Path(__file__).resolve().parents[1]
    for name in ("models", "analysis"):
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin]
        if places and (beside / name) not in [Path(place).resolve() for place in places if place]:
            hidden = f"{places[0]} is found in place of this program's own package `{name}`"
            # `python -m` puts the working directory first, and its name first while it looks.
            if sys.argv[0] == "-m":
                looks = "`python -m` looks into the working directory first"
                print(f"error: {hidden}: {looks}; type `{_instead()}`", file=sys.stderr)
                raise SystemExit(2)
            raise ImportError(f"{hidden}; rename it, or take its folder off `sys.path`", name=name)
        importlib.import_module(name)


def _instead() -> str:
    """The command that was typed, in a form that does not look into the working directory first."""
    python, *options = sys.orig_argv[: sys.orig_argv.index("-m")]
    module, *arguments = sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    if Path(sys.executable).with_name("frontier").is_file() and module.count(".") < 2:
        return shlex.join(["frontier", *module.split(".")[1:], *arguments])
    return shlex.join([python, "-P", *options, "-m", module, *arguments])


_import_own_packages()
