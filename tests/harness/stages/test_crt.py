"""CRT from a sweep to its rows: codes, their generator, the causal regulariser, and refusals."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.commands.conformance import check, small_sweep
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.generator.autoregressive import build
from harness.stages.generator.stage import check_given

CAUSAL = "{kind: causal, depth: 1, width: 16, num_heads: 2, warmup_steps: 2}"
AR = (
    "{kind: autoregressive, size: {depth: 1, width: 16, num_heads: 2, hidden_multiple: 8}, "
    "training: {steps: 4, batch_size: 8, learning_rate: 1e-3}}"
)
CODES = (
    "tokenizer.kind=vq",
    "tokenizer.quantizer={kind: vq, codebook_size: 16, restart_after: 1}",
    f"tokenizer.regularizers=[{CAUSAL}]",
    f"generator={AR}",
    "evaluation.sampler={kind: categorical, top_k: 8}",
    "evaluation.guidance=[{kind: none}, {kind: cfg_logits, scale: 2, schedule: linear}]",
)


def test_codes_of_a_regularised_tokenizer_become_rows(command, write, tree):
    settings = [word for setting in CODES for word in ("--set", setting)]
    ended = command(write(tree), *settings)
    assert ended.code == 0, ended.err
    plain, guided = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert [plain["status"], guided["status"]] == ["done", "done"]
    assert (plain["provenance"], plain["tokenizer"], plain["codebook_size"]) == (
        "reconstruction",
        "vq",
        "16",
    )
    assert 0 < float(plain["codebook_usage"]) <= 1
    assert 1 <= float(plain["codebook_perplexity"]) <= 16
    assert (guided["guidance"], guided["guidance_scale"]) == ("cfg_logits 2 linear", "2.0")
    assert guided["generator_size"] == "1x16x2"
    assert plain["gfid"] != guided["gfid"]
    assert "causal" in plain["regularizers"]
    assert [float(row["sample_evaluations"]) for row in (plain, guided)] == [1, 2]
    # Sixteen codes an image.
    assert float(plain["sample_tokens_per_s"]) == 16 * float(plain["sample_images_per_s"])
    curves = next(Path("artifacts/tokenizer").glob("*/curve.jsonl")).read_text()
    assert "causal.prediction" in curves
    assert "causal.variance" in curves
    curves = next(Path("artifacts/generator").glob("*/curve.jsonl")).read_text()
    assert "cross_entropy_4of4" in curves


@pytest.mark.parametrize("codebook", ["{kind: gradient}", "{kind: ema}"])
def test_every_stage_resumes_with_the_same_bits(load, codebook):
    said: list[str] = []
    sweep = load(*CODES, f"tokenizer.quantizer.codebook={codebook}")
    assert check(small_sweep(sweep), said.append), "\n".join(said)
    assert any("tokenizer: resumed from a checkpoint" in line for line in said)
    assert any("generator: resumed from a checkpoint" in line for line in said)


REFUSED = {
    "more codes than the index type numbers": (
        "tokenizer.quantizer={kind: fsq, levels: [100000, 100000]}",
        "tokenizer",
        "2 to 2,147,483,648 codes",
    ),
    "more codes than the training images have tokens": (
        "tokenizer.quantizer.codebook_size=30000",
        "tokenizer",
        "at most 22,992 codes, as many as the 1,437 training images have tokens",
    ),
    "levels of another width": (
        "tokenizer.quantizer={kind: fsq, levels: [4, 4, 4]}",
        "tokenizer",
        "`latent_dim` must be the number of `quantizer.levels`, 3, but got 2",
    ),
    "guidance of velocities": (
        "evaluation.guidance=[{kind: cfg, scale: 2}]",
        "evaluation.guidance.0.kind",
        "must be one of none, cfg_logits, all that a generator of kind 'autoregressive'",
    ),
    "a solver": (
        "evaluation.sampler={kind: heun}",
        "evaluation.sampler.kind",
        "must be one of categorical, all that",
    ),
    "an unknown sampler": (
        "evaluation.sampler={kind: beam}",
        "evaluation.sampler",
        "must be one of 'euler', 'heun', 'dopri5', 'ab2', 'dpmpp_2m', 'cascade', 'categorical', "
        "but got 'beam'",
    ),
    "latents of channels": (
        "tokenizer={latent_dim: 2, training: {steps: 2, batch_size: 2, learning_rate: 0.1}}",
        "generator.kind",
        "must be a kind that generates channels",
    ),
    "a KL weight": ("tokenizer.loss.kl_weight=1e-6", "tokenizer.loss.kl_weight", "kl_weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_at_planning(load, case):
    setting, path, says = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        load(*CODES, setting)
    assert f"{path}" in str(refused.value)
    assert says in str(refused.value)


def test_a_generator_for_another_codebook_is_refused_before_anything_starts(load, tmp_path):
    path = tmp_path / "ar.safetensors"
    save_file({"head.weight": torch.zeros(99, 16)}, path)
    plan = make_plan(load(*CODES, f"generator.checkpoint={path}"))
    stage = next(stage for stage in plan.stages if stage.kind == "generator")
    with pytest.raises(ConfigError, match=r"trial\.generator\.checkpoint") as refused:
        check_given(stage.config)
    assert "head.weight" in str(refused.value)


def test_a_released_generator_of_codes_is_sampled_without_images(command, write, load, tmp_path):
    plan = make_plan(load(*CODES))
    stage = next(stage for stage in plan.stages if stage.kind == "generator")
    torch.manual_seed(0)
    path = tmp_path / "ar.safetensors"
    save_file(build(stage.config).state_dict(), path)
    given = (f"generator.checkpoint={path}", "latents.source={kind: statistics}")
    words = [word for setting in (*CODES, *given) for word in ("--set", setting)]
    ended = command(tmp_path / "sweep.yaml", *words)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("results/small/table.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done", "done"]
    with pytest.raises(ConfigError, match="which are not normalised"):
        load(*CODES, *given[:1], "latents.source={kind: statistics, path: latents_stats.pt}")
