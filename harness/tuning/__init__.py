"""Tuning: Optuna proposes trials, and the planner, store and executors of sweeps run them."""
