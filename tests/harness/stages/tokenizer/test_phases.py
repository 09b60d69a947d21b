"""Staged training of a tokenizer: the same as its phases trained by hand, one after the other."""

import dataclasses
from pathlib import Path

import pytest
import torch

from harness.config.phases import TokenizerPhase, spell_out
from harness.config.resources import Resources
from harness.config.sweep import load_sweep
from harness.config.tokenizer import TokenizerConfig
from harness.data import open_dataset
from harness.data.pixel_range import to_model_range
from harness.data.stream import BatchStream
from harness.execution.stage_run import run_stage
from harness.machine.random_streams import derive_seed, generator_for
from harness.plan.plan import make_plan
from harness.run import main
from harness.schema.keys import to_plain
from harness.schema.reading import ConfigError
from harness.stages.encoder.stage import load_encoder
from harness.stages.stage import Stage
from harness.stages.tokenizer import va_vae
from harness.storage.artifacts import Store
from models.alignment import NoAlignment, VFAlignment
from models.discriminator import DiscriminatorConfig
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig

RELEASED = Path(__file__).parents[4] / "sweeps" / "vavae_released.yaml"
GAN = DiscriminatorConfig(num_layers=1, base_width=4, start_step=2)
BASE = (
    "grid.alignment=[vf]",
    "tokenizer.loss={discriminator: {kind: patchgan, num_layers: 1, base_width: 4, start_step: 2}}",
    "tokenizer.training.steps=5",
)
PHASES = (
    "tokenizer.phases=[{steps: 3, vf_weight: 0.5, cos_margin: 0.0, distmat_margin: 0.0}, "
    "{steps: 2, discriminator_start: 1}]"
)


def trained(load, root, *settings: str) -> tuple[Stage, Store]:
    store = Store(root)
    stage = next(s for s in make_plan(load(*BASE, *settings)).stages if s.kind == "tokenizer")
    for each in (*stage.inputs.values(), stage):
        outcome = run_stage(each, store.root, Resources(), 0.0)
        assert outcome.status in ("done", "reused"), outcome.error
    return stage, store


def weights_of(stage: Stage, store: Store) -> dict[str, torch.Tensor]:
    return dict(store.get(stage.kind, stage.key).tensors("model.safetensors"))


def by_hand(stage: Stage, store: Store) -> dict[str, torch.Tensor]:
    """Each phase as a training of its own: new loss, new optimisers, old weights."""
    settings = stage.config.tokenizer
    seed, alignment = settings.seed, settings.alignment
    free = dataclasses.replace(alignment, vf_weight=0.5, cos_margin=0.0, distmat_margin=0.0)
    source = stage.inputs["encoder"]
    encoder = load_encoder(store.get(source.kind, source.key), torch.device("cpu"))
    stream = BatchStream(
        dataset=open_dataset(stage.config.data),
        split="train",
        batch_size=settings.training.batch_size,
        seed=derive_seed(seed, "tokenizer", "data"),
        augment=True,
    )
    torch.manual_seed(derive_seed(seed, "tokenizer", "weights"))
    model, before, first = va_vae.build(stage.config).train(), None, 0
    for steps, start, aligned in ((3, 2, free), (2, 1, alignment)):
        config = TokenizerLossConfig(discriminator=dataclasses.replace(GAN, start_step=start))
        loss = TokenizerLoss(config, aligned, latent_dim=2, feature_dim=encoder.feature_dim)
        if before:
            loss.load_state_dict(before)
        adam, adversary = (
            torch.optim.Adam(parameters, lr=1e-3, fused=True)
            for parameters in (
                [*model.parameters(), *loss.autoencoder_parameters()],
                loss.discriminator_parameters(),
            )
        )
        for batch in range(steps):
            images = to_model_range(stream.batch(first + batch)[0])
            random = generator_for(seed, "tokenizer", first + batch)
            noise = torch.randn(len(images), 2, 4, 4, generator=random)
            features = encoder.features(images, grid=(4, 4))
            outcome = loss.autoencoder_loss(model, images, noise, features, batch)
            adam.zero_grad()
            outcome.total.backward()
            adam.step()
            if 2 * batch + 1 >= start:
                adversary.zero_grad()
                loss.discriminator_loss(images, outcome.reconstruction).backward()
                adversary.step()
        before, first = loss.state_dict(), first + steps
    return model.state_dict()


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in right)


def test_phases_equal_the_trainings_that_they_stand_for(load, tmp_path):
    stage, store = trained(load, tmp_path, PHASES)
    assert equal(weights_of(stage, store), by_hand(stage, store))


def test_phases_that_change_nothing_leave_every_bit(load, tmp_path):
    phases = "tokenizer.phases=[{steps: 3}, {steps: 2, reset_optimizers: false}]"
    # A phase counts the adversarial start anew, which zero makes the same.
    start = "tokenizer.loss.discriminator.start_step=0"
    plain = weights_of(*trained(load, tmp_path, start))
    assert equal(weights_of(*trained(load, tmp_path, start, phases)), plain)


def test_a_reset_of_the_optimizers_is_a_change(load, tmp_path):
    kept, reset = (
        weights_of(*trained(load, tmp_path, f"tokenizer.phases=[{{steps: 3}}, {second}]"))
        for second in ("{steps: 2, reset_optimizers: false}", "{steps: 2}")
    )
    assert not equal(kept, reset)


def test_the_released_recipe_is_the_published_one():
    tokenizer = load_sweep(RELEASED).points[0].trial.tokenizer
    assert isinstance(tokenizer, TokenizerConfig)
    schedule = tokenizer.schedule
    assert [phase.first_step / 5005 for phase in schedule] == [0, 100, 115]
    assert [phase.resets_optimizers for phase in schedule] == [False, True, True]
    starts = [phase["loss"]["discriminator"]["start_step"] for phase in to_plain(schedule)]
    assert starts == [5001, 1, 1]
    aligned = [phase["alignment"] for phase in to_plain(schedule)]
    names = ("vf_weight", "cos_margin", "distmat_margin")
    numbers = [tuple(alignment[name] for name in names) for alignment in aligned]
    assert numbers == [(0.5, 0.0, 0.0), (0.1, 0.0, 0.0), (0.1, 0.5, 0.25)]


def test_the_released_sweep_plans_two_rows_with_the_published_sizes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(RELEASED), "--dry-run", "--assume-device", "H100"]) == 0
    text = capsys.readouterr().out
    for words in ("69,836,067", "675,256,736", "in 3 phases", "2 rows"):
        assert words in text


@pytest.mark.parametrize(
    ("phase", "alignment", "message"),
    [
        ({"steps": 4}, VFAlignment(), "must sum to `training.steps` = 5, but sum to 4"),
        ({"steps": 5, "vf_weight": 0.1}, NoAlignment(), "`vf_weight` of a phase need an alignment"),
        ({"steps": 5, "discriminator_start": 1}, VFAlignment(), "needs a discriminator"),
        ({"steps": 5, "cos_margin": -1.0}, VFAlignment(), "`cos_margin` must not be negative"),
    ],
)
def test_phases_that_cannot_be_are_refused(phase, alignment, message):
    with pytest.raises(ValueError, match=message):
        spell_out([TokenizerPhase(**phase)], 5, TokenizerLossConfig(), alignment)


def test_the_sweep_file_names_the_phases_that_do_not_sum_up(load):
    with pytest.raises(ConfigError, match=r"trial\.tokenizer: the steps of `phases` must sum"):
        load("tokenizer.phases=[{steps: 2}]")
    with pytest.raises(ConfigError, match="`steps` of a phase must be at least 1"):
        load("tokenizer.phases=[{steps: 0}, {steps: 3}]")
