"""Codes from training to samples on two workers: what one worker gives."""

import json

import numpy as np
import pytest

from ..conftest import SMALL_SWEEP
from .conftest import Run, Small, largest_difference, log_of, run_workers

SETTINGS = (
    "tokenizer.kind=vq",
    "tokenizer.quantizer={kind: vq, codebook_size: 16, codebook: {kind: ema}, restart_after: 1}",
    "tokenizer.regularizers=[{kind: causal, depth: 1, width: 16, num_heads: 2, warmup_steps: 2}]",
    "tokenizer.training.steps=6",
    "tokenizer.training.batch_size=9",
    "generator={kind: autoregressive, validation_batches: 2, "
    "size: {depth: 1, width: 16, num_heads: 2, hidden_multiple: 8}, "
    "training: {steps: 6, batch_size: 9, learning_rate: 1e-3}}",
    "evaluation.sampler={kind: categorical, top_k: 8}",
    "evaluation.guidance=[{kind: cfg_logits, scale: 2, schedule: linear}]",
    "evaluation.keep_samples=true",
    "evaluation.batch_size=9",
)
KINDS = ("tokenizer", "latents", "generator", "generation")
TOLERANCE = 1e-5
"""Largest difference of a weight after six steps, as of other kinds."""


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("codes"), SMALL_SWEEP, SETTINGS)


@pytest.fixture(scope="module")
def together(codes, tmp_path_factory):
    """Stages of two workers, by kind; each reads what one worker made."""
    folder = tmp_path_factory.mktemp("together")
    runs = {}
    for kind in KINDS:
        stage = codes.stage(kind)
        runs[kind] = Run(stage, codes.empty_store(folder / kind, stage))
    ended = run_workers(folder / "run", codes, list(runs.values()))
    assert ended.codes == [0, 0], log_of(folder / "run")
    assert {o["status"] for outcomes in ended.outcomes for o in outcomes} == {"done"}, (
        ended.outcomes
    )
    return {kind: run.store.get(kind, run.stage.key) for kind, run in runs.items()}


@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_two_workers_train_what_one_does(codes, together, kind):
    alone = codes.bring(codes.stage(kind))
    assert largest_difference(together[kind], alone) < TOLERANCE
    assert together[kind].result == alone.result
    ours, theirs = (
        [json.loads(line) for line in (artifact.path / "curve.jsonl").read_text().splitlines()]
        for artifact in (together[kind], alone)
    )
    assert len(ours) == 6
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(yours, rel=1e-4)


def test_two_workers_choose_the_same_codes_and_draw_the_same_samples(codes, together):
    latents = codes.bring(codes.stage("latents"))
    assert together["latents"].record["files"] == latents.record["files"]
    alone = codes.bring(codes.stage("generation"))
    ours, theirs = (np.load(a.path / "samples.npz") for a in (together["generation"], alone))
    for name in ("arr_0", "arr_1"):
        assert np.array_equal(ours[name], theirs[name])
    measured = together["generation"].result
    assert set(measured) == set(alone.result)
    for name, value in alone.result.items():
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert measured[name] == expected, name
