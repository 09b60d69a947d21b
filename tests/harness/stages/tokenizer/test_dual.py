"""TokenFlow from a sweep to its rows: two encoders around one index, resumed, given, refused."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.commands.conformance import check, small_sweep
from harness.config.sweep import load_sweep
from harness.plan.cost import estimated_flops
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.tokenizer.stage import KIND, build_tokenizer
from harness.stages.tokenizer.va_vae import trained_images
from models.dual_autoencoder import DualAutoencoder

TEACHER = (
    "{kind: in_domain, name: vit_tiny_patch16_224, model_args: {img_size: 16, patch_size: 4, "
    "embed_dim: 16, depth: 1, num_heads: 2, class_token: false, global_pool: avg}, "
    "training: {steps: 2, batch_size: 16, learning_rate: 1e-3}}"
)
DUAL = (
    "tokenizer.kind=dual_vq",
    "tokenizer.latent_dim=6",
    "tokenizer.quantizer={codebook_size: 16, semantic_dim: 4, pixel_dim: 2, scales: [1, 2, 4], "
    "scale_drop: 0.4}",
    f"tokenizer.teacher={TEACHER}",
    "tokenizer.semantic_decoder={width: 16, num_heads: 2, num_blocks: 1}",
    "tokenizer.pixel_width=8",
    "tokenizer.loss.discriminator={kind: patchgan, num_layers: 1, base_width: 4, weight: 0.5, "
    "start_step: 3, balance: constant}",
)
ALONE = (*DUAL, "trial.generator=null")


def words(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def test_pairs_of_codes_become_rows(command, write, tree):
    diagnostics = "evaluation.diagnostics={kind: latents, num_images: 200}"
    ended = command(write(tree), *words(*ALONE, diagnostics))
    assert ended.code == 0, ended.err
    (row,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert (row["status"], row["provenance"]) == ("done", "reproduced")
    assert (row["tokenizer"], row["codebook_size"], row["latent_dim"]) == ("dual_vq", "16", "6")
    shares = [float(share) for share in row["codebook_usage_by_scale"].split()]
    assert len(shares) == 3
    assert 0 < max(shares) <= float(row["codebook_usage"]) <= 1
    assert -1 < float(row["feature_cosine"]) < 1
    assert 0 < float(row["linear_probe_accuracy"]) < 1
    assert row["alignment_encoder"] == "vit_tiny_patch16_224"
    assert 0 <= float(row["alignment_encoder_accuracy"]) <= 1
    curve = next(Path("artifacts/tokenizer").glob("*/curve.jsonl")).read_text()
    assert all(term in curve for term in ("semantic", "codebook", "commitment", "usage", "gan"))

    # The student starts as the teacher and moves away; weights that are taken are those.
    (encoder,) = [
        p
        for p in Path("artifacts/encoder").glob("*/model.safetensors")
        if "pos_embed" in load_file(p) and load_file(p)["pos_embed"].shape[1] == 16
    ]
    (trained,) = Path("artifacts/tokenizer").glob("*/model.safetensors")
    start, end = load_file(encoder), load_file(trained)
    for name in ("blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"):
        moved = (end[f"semantic_encoder.model.{name}"] - start[name]).abs()
        assert 0 < moved.max() < 0.02
    plan = make_plan(load_sweep(write(tree), (*ALONE, f"tokenizer.checkpoint={trained}")))
    (given,) = (stage for stage in plan.stages if stage.kind == "tokenizer")
    assert given.inputs == {}
    KIND.check_given(given)


def test_the_cost_of_the_semantic_decoder_is_counted(write, tree):
    costs = []
    for blocks in (1, 2):
        decoder = f"tokenizer.semantic_decoder={{width: 16, num_heads: 2, num_blocks: {blocks}}}"
        plan = make_plan(load_sweep(write(tree), (*ALONE, decoder)))
        (stage,) = (stage for stage in plan.stages if stage.kind == "tokenizer")
        costs.append(estimated_flops(stage))
    # One block on 16 cells and a class token: products by weights, then attention's own two.
    block = 2 * 17 * 16 * 16 * (4 + 8) + 2 * 2 * 17 * 17 * 16
    assert costs[1] - costs[0] == 3 * block * trained_images(stage.config)


CODES = "size: {depth: 1, width: 16, num_heads: 2, hidden_multiple: 8}, training: TRAINING"
ROUTES = {
    "codes one after the other": (
        "tokenizer.quantizer.scales=[]",
        "tokenizer.regularizers=[{kind: eq, min_scale: 0.5}]",
        f"generator={{kind: autoregressive, {CODES}}}",
        "evaluation.sampler={kind: categorical, top_k: 8}",
    ),
    "scale by scale": (
        f"generator={{kind: next_scale, {CODES}}}",
        "evaluation.sampler={kind: categorical, top_p: 0.9}",
        "evaluation.guidance=[{kind: cfg_logits, scale: 2, schedule: linear}]",
    ),
    "channels brought back to codes, the semantic ones ahead": (
        "tokenizer.latents=requantised",
        "generator={kind: lightningdit, size: {depth: 1, width: 16, num_heads: 2}, patch_size: 2, "
        "time_groups: by_offset, flow: {offset: 0.3}, training: TRAINING}",
    ),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_stage_of_a_route_resumes_with_the_same_bits(load, route):
    training = "{steps: 4, batch_size: 8, learning_rate: 1e-3}"
    settings = (setting.replace("TRAINING", training) for setting in ROUTES[route])
    said: list[str] = []
    assert check(small_sweep(load(*DUAL, *settings)), said.append), "\n".join(said)
    for kind in ("tokenizer", "generator"):
        assert any(f"{kind}: resumed from a checkpoint" in line for line in said)


def test_what_is_generated_moves_nothing_of_the_tokenizer(load):
    plans = {
        latents: {s.kind: s for s in make_plan(load(*DUAL, f"tokenizer.latents={latents}")).stages}
        for latents in ("continuous", "requantised")
    }
    codes = {s.kind: s for s in make_plan(load(*ALONE)).stages}
    free, bound = plans["continuous"], plans["requantised"]
    for kind in ("tokenizer", "reconstruction"):
        assert free[kind].key == bound[kind].key == codes[kind].key
    assert free["generator"].key == bound["generator"].key
    assert free["generation"].key != bound["generation"].key
    layout = free["latents"].config.layout
    assert [(group.name, group.channels) for group in layout.groups] == [
        ("semantic", 4),
        ("pixel", 2),
    ]


def test_the_student_may_be_another_network_and_learns(load):
    student = TEACHER.replace("depth: 1", "depth: 2")
    plan = make_plan(load(*ALONE, f"tokenizer.student={student}"))
    (stage,) = (stage for stage in plan.stages if stage.kind == "tokenizer")
    assert stage.inputs["student"].key != stage.inputs["teacher"].key
    torch.manual_seed(0)
    network = build_tokenizer(stage.config).train()
    assert isinstance(network, DualAutoencoder)
    images, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 6, 4, 4)
    inner = network.bottleneck(images, noise)
    terms = inner.terms(torch.randn(2, 16, 4, 4))
    image = network.decode_channels(inner.latent)
    total = image.square().mean() + sum(inner.weights[n] * term for n, term in terms.items())
    total.backward()
    for name, parameter in network.named_parameters():
        # The classifier's head and the norm before it are not behind dense features.
        if not name.startswith(("semantic_encoder.model.head", "semantic_encoder.model.fc_norm")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert not network.semantic_encoder.training


REFUSED = {
    "another width": ("tokenizer.latent_dim=5", "`latent_dim` must be the numbers of a pair"),
    "scales beyond the latent": (
        "tokenizer.quantizer.scales=[1, 2, 3]",
        "`scales` must end at the 4 cells of the latent, but end at 3",
    ),
    "an alignment": (f"tokenizer.alignment={{kind: vf, encoder: {TEACHER}}}", "must be none"),
    "a decoder of another scale": (
        "tokenizer.decoder={base_width: 8, width_multipliers: [1, 2], norm_groups: 4}",
        "`decoder` must enlarge 4 times to 3 channels",
    ),
    "a teacher that grades": (
        f"evaluation.extractor={TEACHER}",
        "must be another network than the one the tokenizer",
    ),
    "a student of one's own code": (
        "tokenizer.teacher={kind: python, target: 'mine:network', feature_dim: 4, stride: 4}",
        "`student` must be given",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_at_planning(load, case):
    setting, says = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        load(*ALONE, setting)
    assert says in str(refused.value)
