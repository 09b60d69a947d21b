"""Regularisers in plan, table and training; what each computes is in tests/models."""

import json

import my_regularizer
import pytest
import torch

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.cost import estimated_flops
from harness.plan.plan import make_plan
from harness.results.rows import make_row
from harness.stages.stage import Stage
from harness.storage.artifacts import Artifact, Store

assert my_regularizer.REGULARIZERS  # The import has registered the kind `centre`.
GUESSED = "reconstruction"
KINDS = "tokenizer.regularizers=[{}]"
GAN = (
    "tokenizer.loss={discriminator: {kind: patchgan, num_layers: 1, base_width: 4, start_step: 0}}"
)


def tokenizer_of(sweep) -> Stage:
    return next(stage for stage in make_plan(sweep).stages if stage.kind == "tokenizer")


def trained(stage: Stage, store: Store) -> Artifact:
    outcome = run_stage(stage, store.root, Resources(), 0.0)
    assert outcome.status == "done", outcome.error
    return store.get(stage.kind, stage.key)


def curve_of(artifact: Artifact) -> list[dict[str, float]]:
    lines = (artifact.path / "curve.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_row_says_how_its_tokenizer_was_regularised(load, tmp_path):
    for block, column, provenance in (
        ("", "none", "reproduced"),
        ("{kind: eq}", "eq", "reproduced"),
        ("{kind: denoise}", "denoise", GUESSED),
        ("{kind: centre, optimizer: {learning_rate: 0.5}}", "centre learning_rate 0.5", GUESSED),
        ("{kind: eq}, {kind: denoise, gamma: 1.5}", "eq + denoise gamma 1.5", GUESSED),
    ):
        sweep = load(KINDS.format(block))
        (row,) = make_plan(sweep).rows
        values = make_row(row, sweep, Store(tmp_path / "empty"), {})
        assert (values["regularizers"], values["provenance"]) == (column, provenance)
        assert column in f"{row.tokenizer.label} none"


def test_an_empty_list_moves_no_key_and_a_setting_moves_it(load):
    keys = [
        tokenizer_of(load(*settings)).key
        for settings in (
            (),
            (KINDS.format(""),),
            (KINDS.format("{kind: eq}"),),
            (KINDS.format("{kind: eq, plain_share: 0.25}"),),
            (KINDS.format("{kind: denoise}"),),
        )
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_a_regulariser_moves_no_other_random_number(load, tmp_path):
    """All batches of `eq` are plain here, so the training must be the one without it."""
    plain = trained(tokenizer_of(load(GAN)), Store(tmp_path / "plain"))
    settings = (GAN, KINDS.format("{kind: eq, plain_share: 1.0, min_scale: 0.5}"))
    other = trained(tokenizer_of(load(*settings)), Store(tmp_path / "eq"))
    ours, theirs = (each.tensors("model.safetensors") for each in (other, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert curve_of(other) == curve_of(plain)


def test_terms_and_their_weights_are_in_the_curve(load, tmp_path):
    stage = tokenizer_of(load(KINDS.format("{kind: centre}")))
    curve = curve_of(trained(stage, Store(tmp_path / "store")))
    assert [line["weight_centre.l2"] for line in curve] == pytest.approx([0.0, 4 / 3, 8 / 3])
    assert all(line["centre.l2"] > 0 for line in curve)


def test_what_a_regulariser_owns_is_trained_by_its_own_optimiser(load, tmp_path, monkeypatch):
    """By the autoencoder's learning rate, one for both runs, the centres would be the same."""
    built = []
    build = my_regularizer.CentreConfig.build
    monkeypatch.setattr(
        my_regularizer.CentreConfig,
        "build",
        lambda self, layout: built.append(build(self, layout)) or built[-1],
    )
    block = "{{kind: centre, optimizer: {{learning_rate: {}, weight_decay: 0.0}}}}"
    moved = []
    for rate in (0.5, 0.25):
        stage = tokenizer_of(load(KINDS.format(block.format(rate))))
        trained(stage, Store(tmp_path / str(rate)))
        # Others were built at planning, and to count operations.
        (own,) = [each for each in built if each.centre.grad is not None]
        moved.append(own.centre.detach().flatten())
        built.clear()
    # AdamW moves every number by about its learning rate a step, whatever the gradient.
    assert float((moved[0] - moved[1]).abs().min()) > 0.2


def test_the_discriminator_sees_the_images_that_were_to_be_reconstructed(
    load, tmp_path, monkeypatch
):
    from models.tokenizer_loss import TokenizerLoss

    sizes = []
    original = TokenizerLoss.discriminator_loss

    def discriminator_loss(self, images, reconstruction, *more):
        assert images.shape == reconstruction.shape
        sizes.append(tuple(images.shape[2:]))
        return original(self, images, reconstruction, *more)

    monkeypatch.setattr(TokenizerLoss, "discriminator_loss", discriminator_loss)
    settings = (GAN, KINDS.format("{kind: eq, plain_share: 0.0, min_scale: 0.5}"))
    trained(tokenizer_of(load(*settings)), Store(tmp_path / "store"))
    assert len(sizes) == 3
    assert all(side in (8, 12) for size in sizes for side in size)


def test_the_cost_of_a_regularisers_network_is_counted(load, monkeypatch):
    plain, with_centre = (
        estimated_flops(tokenizer_of(load(KINDS.format(block)))) for block in ("", "{kind: centre}")
    )
    assert plain == with_centre  # Pointwise work does not count.

    class Multiplied(my_regularizer.Centre):
        def loss(self, mean, latent, drawn, step):
            tokens = mean.flatten(2)
            return {"l2": (tokens @ tokens.transpose(1, 2)).mean()}

    monkeypatch.setattr(my_regularizer, "Centre", Multiplied)
    block = "{kind: centre, optimizer: {learning_rate: 0.1}}"
    # 3 forwards of 2 x 2 products over 16 tokens, for 3 steps of 8 images; two operations each.
    extra = estimated_flops(tokenizer_of(load(KINDS.format(block)))) - plain
    assert extra == 3 * 2 * (2 * 2 * 16) * 3 * 8
