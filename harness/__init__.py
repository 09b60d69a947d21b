"""From a sweep file to a results table: plan, stages, artifacts, executors and commands."""
