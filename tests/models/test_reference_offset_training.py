"""Training with groups ahead of others, held to tensors of Semantic-First Diffusion.

Each trap of the specification has a number by which its mistake is known: the values here differ
from those by far more than the tolerance.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from models.ema import Ema, EmaConfig
from models.latent import ChannelGroup, LatentLayout
from models.objectives.flow import (
    FlowConfig,
    FlowObjective,
    flow_loss,
    flow_total,
    interpolate,
    sample_time,
    velocity_target,
)
from models.objectives.objective import drop_labels
from models.repa import HEAD, REPAConfig, REPAHead, alignment_term

from .test_reference_groups import FOLDER, LAYOUT, build, largest


@pytest.fixture(scope="module")
def known():
    if not FOLDER.is_dir():
        pytest.skip(f"the reference tensors are not at {FOLDER}")
    return json.loads((FOLDER / "sfd_fixtures.json").read_text())


@pytest.fixture(scope="module")
def transport(known):
    return load_file(FOLDER / "sfd_transport.safetensors")


def flow_of(case) -> FlowConfig:
    weights = {"semantic": case["semantic_weight"]}
    return FlowConfig(offset=case["delta"], group_weights=weights)


SETTINGS = ("offset", "offset_mse", "offset_cos_mse", "offset_unweighted", "joint")


@pytest.mark.parametrize("name", SETTINGS)
def test_times_and_noisy_latents_equal_the_published_ones(name, known, transport, monkeypatch):
    config = flow_of(known["sfd_transport"]["scalars"][name])
    normal = transport["in.normal"].float()[:, None]
    monkeypatch.setattr(torch, "randn", lambda *_, **__: normal)
    share = sample_time(config, len(normal), 2)
    assert largest(share[:, 0], transport["out.u"]) < 1e-6
    times = config.clock(LAYOUT).training_times(share)
    noisy = interpolate(transport["in.clean"], transport["in.noise"], times, LAYOUT)
    if config.offset:
        published = torch.stack([transport["out.t_texture"], transport["out.t_semantic"]], dim=1)
        assert largest(noisy, transport["out.noisy"]) < 1e-5
    else:
        published = transport["out.joint.t"][:, None].expand(-1, 2)
        assert largest(noisy, transport["out.joint.noisy"]) < 1e-5
    assert largest(times, published) < 1e-6


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_terms_equal_the_published_ones(name, known, transport):
    case = known["sfd_transport"]["scalars"][name]
    config, count = flow_of(case), len(transport["in.clean"])
    target = velocity_target(transport["in.clean"], transport["in.noise"])
    assert largest(target, transport["out.target"]) < 1e-6
    prefix = name if f"out.{name}.velocity_mse" in transport else "offset"
    summed = 0.0
    for index in range(count):
        rows = slice(index, index + 1)
        predicted = transport["in.predicted_velocity"][rows]
        terms = flow_loss(predicted, target[rows], LAYOUT, config.weights(LAYOUT))
        for term, value in terms.items():
            assert float(value) == pytest.approx(
                float(transport[f"out.{prefix}.{term}"][index]), rel=1e-5
            )
        total = flow_total(config, terms)
        if case["with_repa"]:
            tokens, features = transport["in.projection"][rows], transport["in.features"][rows]
            repa = case["repa_weight"] * alignment_term(tokens, features, case["repa_mode"])
            published = float(transport[f"out.{prefix}.repa"][index])
            assert float(repa) == pytest.approx(published, rel=1e-5)
            total = total + repa
        summed += float(total) / count
    assert summed == pytest.approx(case["total"], rel=1e-5)


@pytest.fixture(scope="module")
def steps(known):
    """The published network, its head, and three steps of it with the published draws."""
    case, tensors = known["sfd_training"], load_file(FOLDER / "sfd_training.safetensors")
    kwargs = case["kwargs"]
    model = build(tensors, "sd.", kwargs).train()
    settings = REPAConfig(
        block=kwargs["repa_depth"],
        hidden_width=kwargs["repa_projector_dim"],
        mode=case["repa_mode"],
        head="within",
    )
    head = REPAHead(settings, width=kwargs["hidden_size"], feature_dim=384)
    prefix = f"sd.{HEAD}."
    head.project.load_state_dict(
        {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    )
    model.add_module(HEAD, head.project)
    ema, flow = Ema(model, EmaConfig(decay=case["ema_decay"])), flow_of(case)
    objective = FlowObjective(
        config=flow, layout=LAYOUT, num_classes=kwargs["num_classes"], class_dropout=0.1
    )
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=case["optimiser"]["lr"], betas=(0.9, 0.999), weight_decay=0.0
    )
    tapped = []

    def network(x, times, labels):
        velocity, tokens = model.forward_with_tap(x, times, labels, settings.block)
        tapped[:] = [tokens]
        return velocity

    before = {n: v.double().clone() for n, v in model.state_dict().items()}
    found, first_gradients = [], {}
    for index in range(3):
        given = {n: tensors[f"in.{index}.{n}"] for n in ("labels", "label_draw", "noise", "clean")}
        share = torch.sigmoid(tensors[f"in.{index}.normal"]).float()[:, None].expand(-1, 2)
        dropped = given["label_draw"] < case["class_dropout"]
        draws = {
            "labels": torch.where(dropped, kwargs["num_classes"], given["labels"]),
            "noise": given["noise"],
            "time": flow.clock(LAYOUT).training_times(share),
        }
        loss = objective.loss(network, given["clean"], draws)
        repa = head(tapped.pop(), tensors[f"in.{index}.features"].float())
        total = loss.total + case["repa_weight"] * repa
        optimizer.zero_grad()
        total.backward()
        gradients = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
        norm = torch.cat([each.flatten() for each in gradients.values()]).norm()
        terms = {**loss.terms, "repa": repa, "total": total, "gradient_norm": norm}
        found.append({name: float(value.detach()) for name, value in terms.items()})
        first_gradients = first_gradients or gradients
        optimizer.step()
        ema.update(model)
    return case, tensors, before, found, first_gradients, model, ema


def official(name: str) -> str:
    name = name.replace("t_embedder.groups.0_semantic", "t_embedder_sem")
    return name.replace("t_embedder.groups.1_texture", "t_embedder_tex")


def test_losses_and_gradient_norms_of_three_steps_equal_the_published_ones(steps):
    case, _, _, found, *_ = steps
    for own, published in zip(found, case["steps"], strict=True):
        for name, value in own.items():
            tolerance = 1e-4 if name == "gradient_norm" else 1e-5
            assert value == pytest.approx(published[name], rel=tolerance), name


def test_gradients_equal_the_published_ones(steps):
    _, tensors, _, _, gradients, *_ = steps
    named = {f"grad0.{official(name)}": value for name, value in gradients.items()}
    held = [name for name in tensors if name.startswith("grad0.")]
    assert len(held) >= 5
    for name in held:
        assert largest(named[name], tensors[name]) < 1e-4, name


def test_updates_and_averages_equal_the_published_ones(steps):
    case, tensors, before, _, _, model, ema = steps
    rate = case["optimiser"]["lr"]
    moved, averaged = model.state_dict(), ema.module.state_dict()
    number = 0
    for name, start in before.items():
        if (key := f"out.update.{official(name)}") in tensors:
            difference = (moved[name].double() - start - tensors[key].double()).abs() / rate
            assert float(difference.mean()) < 1e-3, name
            assert float(difference.max()) < 0.3, name
            number += 1
        if (key := f"out.ema_update.{official(name)}") in tensors:
            # Three roundings to float32, whose spacing is more than a published step.
            spacing = 3 * torch.finfo(torch.float32).eps * float(start.abs().max())
            difference = (averaged[name].double() - start - tensors[key]).abs()
            assert float(difference.max()) < spacing, name
            assert f"{HEAD}.0.weight" in averaged
            number += 1
    assert number == sum(n.startswith(("out.update.", "out.ema_update.")) for n in tensors)


def test_the_average_has_no_warm_up(steps):
    _, tensors, *_ = steps
    module = torch.nn.Linear(4, 3, bias=False)
    module.weight.data = tensors["in.average.0"]
    ema = Ema(module, EmaConfig(decay=0.9999))
    for step in (1, 2, 3):
        module.weight.data = tensors[f"in.average.{step}"]
        ema.update(module)
    assert largest(ema.module.state_dict()["weight"], tensors["out.average"]) < 1e-6


def test_labels_drop_where_the_published_draw_is_below(known, monkeypatch):
    tensors = load_file(FOLDER / "sfd_dit_offset.safetensors")
    monkeypatch.setattr(torch, "rand", lambda *_, **__: tensors["in.train_label_draw"])
    dropped = drop_labels(tensors["in.train_y"], 10, 0.5)
    assert torch.equal(dropped, tensors["in.train_y_after_drop"])


def test_tap_and_projection_equal_the_published_ones(known):
    tensors = load_file(FOLDER / "sfd_dit_offset.safetensors")
    kwargs = known["sfd_dit_offset"]["kwargs"]
    model = build(tensors, "sd.", kwargs)
    head = REPAHead(REPAConfig(hidden_width=64, head="within"), width=80, feature_dim=384)
    prefix = f"sd.{HEAD}."
    head.project.load_state_dict(
        {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    )
    times = torch.stack([tensors["in.t_texture"], tensors["in.t_semantic"]], dim=1)
    labels = tensors["in.train_y_after_drop"]
    with torch.no_grad():
        velocity, tokens = model.forward_with_tap(tensors["in.x"], times, labels, 2)
        assert largest(velocity, tensors["out.train_velocity"]) < 1e-5
        assert largest(tokens, tensors["out.train_tapped_tokens"]) < 1e-5
        assert largest(head.project(tokens), tensors["out.train_repa_projection"]) < 1e-5
        # Features lie on the grid row by row: another order of the same tokens is another term.
        grid = tensors["out.train_repa_projection"].transpose(1, 2).unflatten(2, (4, 4))
        assert float(head(tokens, grid)) < 1e-6
        assert float(head(tokens, grid.transpose(2, 3))) > 1e-2


def test_a_head_within_the_generator_starts_as_published():
    torch.manual_seed(0)
    head = REPAHead(REPAConfig(hidden_width=16, head="within"), width=8, feature_dim=24)
    tensors = head.project.state_dict()
    assert list(tensors) == [f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    for name, tensor in tensors.items():
        bound = (6 / sum(tensor.shape)) ** 0.5 if name.endswith("weight") else 0.0
        assert 0.9 * bound <= float(tensor.abs().max()) <= bound  # Xavier-uniform's.


@pytest.mark.parametrize("offset", [0.0, 0.3, 1.0])
def test_every_offset_is_a_value_of_one_axis(offset):
    layout = LatentLayout(
        groups=tuple(ChannelGroup(name=n, channels=1) for n in ("texture", "semantic")),
        height=2,
        width=2,
    )
    objective = FlowObjective(
        config=FlowConfig(offset=offset), layout=layout, num_classes=3, class_dropout=0.0
    )
    random = torch.Generator().manual_seed(0)
    texture, semantic = objective.draw(torch.zeros(512).long(), (2, 2, 2), random, 0)["time"].T
    assert 0.0 <= float(texture.min()) < 0.1
    assert 0.9 < float(semantic.max()) <= 1.0
    ahead = (semantic < 1) & (texture > 0)
    assert torch.allclose((semantic - texture)[ahead], torch.tensor(offset))
    # One group after the other: no sample has both on their way.
    assert bool(ahead.any()) == (offset < 1)
    assert bool((texture == 0).any()) == bool((semantic == 1).any()) == (offset > 0)
