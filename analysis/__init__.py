"""From a results table to the frontier: statistics, figures and words; reads tables only."""

import sys
from typing import Any

# Every command imports this package first, before an old Python meets newer syntax.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("error: Python 3.11 or newer is needed, but this is " + sys.version.split()[0])


def _tell(kind: Any, error: Any, trace: Any) -> None:
    """One line where a package is missing: most often no environment was activated."""
    name, remedy = getattr(error, "name", ""), "`source .venv/bin/activate`, or `pip install .`"
    own = ("harness", "models", "analysis")
    if kind is not ModuleNotFoundError or not name or name.startswith(own):
        return sys.__excepthook__(kind, error, trace)
    return print(f"error: {name} is not installed in {sys.executable}; {remedy}", file=sys.stderr)


if sys.argv[0] == "-m":  # Programs that import this see their own errors.
    sys.excepthook = _tell
