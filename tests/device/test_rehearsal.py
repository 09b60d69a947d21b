"""The scripts for a lent GPU, rehearsed on a CPU; the program without Ray and Optuna."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def call(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_sweeps_run_inline_without_ray_and_optuna(tmp_path):
    command = f"""harness.run sweeps/frontier.yaml --executor inline --only tokenizer
        --store {tmp_path}/store --results {tmp_path}/results --set
        grid={{tokenizer.latent_dim:[2]}} --set
        tokenizer.training.steps=2 --set tokenizer.training.warmup_steps=0"""
    ended = call(sys.executable, str(HERE / "bare.py"), *command.split())
    assert ended.returncode == 0, ended.stderr


def test_a_part_of_the_first_call_leaves_its_summary_and_results(tmp_path):
    script = str(HERE / "first_call.sh")
    ended = call(script, "device", OUT=str(tmp_path), DEVICE="cpu")
    assert ended.returncode == 0, ended.stderr
    summary = (tmp_path / "summary.txt").read_text()
    assert summary.startswith("device: exit code 0 after"), summary
    assert (tmp_path / "results.tar.gz").is_file()
