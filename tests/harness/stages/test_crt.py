"""CRT from a sweep to its rows: codes, their generator, the causal regulariser, and refusals."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from harness.commands.conformance import check, small_sweep
from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.data.latents.training_set import LatentSet
from harness.execution.stage_run import run_stage
from harness.machine.random_streams import generator_for
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.generator.autoregressive import build
from harness.stages.generator.stage import check_given, snapshot_name
from harness.storage.artifacts import Store
from models.objectives.objective import drop_labels

SWEEPS = Path(__file__).parents[3] / "sweeps"
CAUSAL = "{kind: causal, depth: 1, width: 16, num_heads: 2, warmup_steps: 2}"
AR = (
    "{kind: autoregressive, size: {depth: 1, width: 16, num_heads: 2, hidden_multiple: 8}, "
    "training: {steps: 4, batch_size: 8, learning_rate: 1e-3}, validation_batches: 2}"
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
    assert '"cross_entropy_4of4"' in curves
    assert '"validation_cross_entropy_4of4"' in curves


def test_held_out_codes_are_measured_by_position_and_never_learnt_from(load, tmp_path, monkeypatch):
    # A moving average without memory keeps the weights of a step.
    plan = make_plan(load(*CODES, "generator.snapshots=[2]", "generator.ema={decay: 0}"))
    stages = {stage.kind: stage for stage in plan.stages}
    read, asked = LatentSet.read, []
    monkeypatch.setattr(
        LatentSet, "read", lambda self, rows, views: asked.append(rows) or read(self, rows, views)
    )
    for kind in ("encoder", "tokenizer", "latents", "generator"):
        assert run_stage(stages[kind], tmp_path, Resources(), 0.0).status == "done"
    held_out = np.arange(16) * 1437 // 16
    common = [len(np.intersect1d(held_out, rows)) for rows in asked]
    # At each of four points of the curve the batch that is learnt from, and the two held out.
    assert common == 4 * [0, 8, 8]

    store = Store(tmp_path)
    latents, generator = (store.get(kind, stages[kind].key) for kind in ("latents", "generator"))
    config = stages["generator"].config
    network = build(config).eval()
    network.load_state_dict(generator.tensors(snapshot_name(2)))
    encoded = latents.tensors("latents_shard00000.safetensors")
    found = []
    for number in range(2):
        rows = held_out[number::2]
        asked_for = drop_labels(
            encoded["labels"][rows], config.num_classes, 0.1, generator_for(0, "validation", number)
        )
        codes = encoded["latents"][rows].long()
        with torch.no_grad():
            logits = network(asked_for, codes[:, :-1])
        entropy = functional.cross_entropy(logits.mT, codes, reduction="none")
        found.append(entropy.unflatten(1, (4, 4)).mean(dim=(0, 2)))
    curve = [json.loads(line) for line in (generator.path / "curve.jsonl").read_text().splitlines()]
    ours = [curve[2][f"validation_cross_entropy_{number}of4"] for number in range(1, 5)]
    torch.testing.assert_close(torch.tensor(ours), torch.stack(found).mean(dim=0))


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
    "a validation that leaves nothing to learn from": (
        "generator.validation_batches=180",
        "generator.validation_batches",
        "must leave some of the 1437 latents to learn from, but holds out 1440",
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


def test_the_shipped_pair_is_trained_with_equal_flops():
    plan = make_plan(load_sweep(SWEEPS / "crt_imagenet256.yaml"))
    flops = {}
    for stage in plan.stages:
        if stage.kind == "tokenizer":
            flops[stage.config.tokenizer.training.steps] = estimate(stage).flops
    assert flops[396_000] / flops[400_000] == pytest.approx(1, abs=0.005)
    # The predictor costs something: as many steps would cost more.
    assert flops[396_000] / 396_000 > 1.005 * flops[400_000] / 400_000


def test_guidance_of_logits_is_refused_for_a_diffusion_transformer(load):
    with pytest.raises(ConfigError, match=r"evaluation\.guidance\.0\.kind") as refused:
        load("evaluation.guidance=[{kind: cfg_logits, scale: 2}]")
    says = "must be one of none, cfg, autoguidance, all that a generator of kind 'lightningdit'"
    assert says in str(refused.value)


def test_a_generator_for_another_codebook_is_refused_before_anything_starts(load, tmp_path):
    path = tmp_path / "ar.safetensors"
    save_file({"head.weight": torch.zeros(99, 16)}, path)
    plan = make_plan(load(*CODES, f"generator.checkpoint={path}"))
    stage = next(stage for stage in plan.stages if stage.kind == "generator")
    with pytest.raises(ConfigError, match=r"trial\.generator\.checkpoint") as refused:
        check_given(stage)
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
