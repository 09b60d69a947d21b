"""Runs a module as if Ray and Optuna were not installed: `python bare.py MODULE ARGUMENTS`."""

import runpy
import sys

if __name__ == "__main__":
    # What stands as None among the modules cannot be imported.
    sys.modules["ray"] = sys.modules["optuna"] = None  # type: ignore[assignment]
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
