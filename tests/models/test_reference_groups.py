"""Times, samplers and guidance per channel group, held to tensors of Semantic-First Diffusion.

SFD (arXiv 2512.04926) has texture channels and, after them, semantic ones that run ahead by an
offset.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import export_generator, load_strictly, read_generator, read_head
from models.clock import OffsetClock
from models.drawing import draw_latents
from models.guidance import AutoGuidance, ClassifierFreeGuidance, NoGuidance, guided_velocity
from models.latent import ChannelGroup, LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
from models.parameters import num_parameters
from models.repa import HEAD, REPAConfig, REPAHead
from models.sampler import SamplerConfig, sample, time_grid

from .conftest import SHARED

FOLDER = SHARED / "fixtures" / "variants"
LAYOUT = LatentLayout(
    groups=(ChannelGroup(name="texture", channels=8), ChannelGroup(name="semantic", channels=4)),
    height=4,
    width=4,
)
LEADS = (False, True)


@pytest.fixture(scope="module")
def known():
    if not FOLDER.is_dir():
        pytest.skip(f"the reference tensors are not at {FOLDER}")
    return json.loads((FOLDER / "sfd_fixtures.json").read_text())


@pytest.fixture(scope="module")
def sampling(known):
    return load_file(FOLDER / "sfd_sampling.safetensors")


@pytest.fixture(scope="module")
def network(known):
    return load_file(FOLDER / "sfd_dit_offset.safetensors")


def build(tensors, prefix, settings, time_groups=("semantic", "texture")) -> LightningDiT:
    shape = DiTShape(
        depth=settings["depth"], width=settings["hidden_size"], num_heads=settings["num_heads"]
    )
    config = LightningDiTConfig(size=shape, qk_norm=True, time_groups=time_groups)
    model = LightningDiT(config, layout=LAYOUT, num_classes=settings["num_classes"])
    state = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    with TemporaryDirectory() as folder:
        save_file(state, Path(folder, "official.safetensors"))
        own = read_generator(Path(folder, "official.safetensors"))
    load_strictly(model, own, source="the fixture")
    return model.eval()


@pytest.fixture(scope="module")
def strong(known, network):
    return build(network, "sd.", known["sfd_dit_offset"]["kwargs"])


@pytest.fixture(scope="module")
def weak(known, network):
    return build(network, "sd_weak.", known["sfd_dit_offset"]["kwargs_weak"])


def largest(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def test_embedders_in_their_own_order_give_the_published_velocity(strong, network):
    times = torch.stack([network["in.t_texture"], network["in.t_semantic"]], dim=1)
    with torch.no_grad():
        velocity = strong(network["in.x"], times, network["in.y"])
    assert largest(velocity, network["out.velocity"]) < 1e-5


def test_one_shared_embedder_gives_the_published_velocity(known):
    tensors = load_file(FOLDER / "sfd_dit_joint.safetensors")
    model = build(tensors, "sd.", known["sfd_dit_joint"]["kwargs"], time_groups="shared")
    times = tensors["in.t"][:, None].expand(-1, 2)
    with torch.no_grad():
        velocity = model(tensors["in.x"], times, tensors["in.y"])
    assert largest(velocity, tensors["out.velocity"]) < 1e-5


def interval(case, name: str = "mode"):
    """Where a group's guidance starts: in the published modes, one group may have no interval."""
    start = case.get("interval_start", 0.0)
    return {
        "both": start,
        "tex": {"texture": start, "semantic": 0.0},
        "sem": {"texture": 0.0, "semantic": start},
    }[case.get(name, "both")]


def guidance_of(name: str, case):
    if name.startswith("cfg"):
        return ClassifierFreeGuidance(scale=case["scale"], interval_start=interval(case))
    if name.startswith("autoguidance"):
        scale = case["scale"]
        if case.get("scale_semantic"):
            scale = {"texture": case["scale_texture"], "semantic": case["scale_semantic"]}
        return AutoGuidance(scale=scale, interval_start=interval(case))
    return NoGuidance()


CASES = (
    "cfg_on",
    "cfg_both_off",
    "cfg_texture_off",
    "cfg_mode_tex",
    "cfg_mode_sem",
    "cfg_at_start",
    "autoguidance_on",
    "autoguidance_two_scales",
    "autoguidance_texture_off",
)


@pytest.mark.parametrize("name", CASES)
def test_guided_velocities_equal_the_published_ones(name, known, network, strong, weak):
    case = known["sfd_dit_offset"]["cases"][name]
    classes = network["in.autoguidance_y" if name.startswith("auto") else "in.cfg_y"][:2]
    field = guided_velocity(strong, guidance_of(name, case), classes, 10, weak)
    with torch.no_grad():
        velocity = field(network["in.cfg_x"][:2], (case["t_texture"], case["t_semantic"]))
    assert largest(velocity, network[f"out.{name}"][:2]) < 1e-5


@pytest.mark.parametrize(("points", "shift"), [(10, 0.0), (14, 0.0), (250, 0.0), (10, 0.3)])
def test_grid_and_times_equal_the_published_ones(points, shift, sampling):
    clock = OffsetClock(0.3, LEADS)
    grid = time_grid(SamplerConfig(num_steps=points, timestep_shift=shift), clock.horizon)
    prefix = f"out.grid_{points}_shift{shift:g}"
    assert largest(grid, sampling[f"{prefix}.tau"]) < 1e-6
    starts = grid[:-1].tolist()
    for index, group in enumerate(("texture", "semantic")):
        times = torch.tensor([clock.times(now)[index] for now in starts])
        moves = torch.tensor([clock.rates(now)[index] for now in starts])
        assert (times - sampling[f"{prefix}.t_{group}"]).abs().max() < 1e-6
        assert torch.equal(moves, sampling[f"{prefix}.{group}_moves"].float())


FIELDS = {
    "euler_10_shift0": (SamplerConfig(num_steps=10, timestep_shift=0.0), 0.3, 1e-5),
    "euler_14_shift0": (SamplerConfig(num_steps=14, timestep_shift=0.0), 0.3, 1e-5),
    "euler_10_shift0.3": (SamplerConfig(num_steps=10, timestep_shift=0.3), 0.3, 1e-5),
    "euler_exact_hit": (SamplerConfig(num_steps=7, timestep_shift=0.0), 0.5, 1e-5),
    "dopri5": (SamplerConfig(kind="dopri5"), 0.3, 1e-3),
}


def linear(sampling):
    """The field of the fixture: (1 - t) A x + t b, with the time of each channel's group."""

    def field(x, times):
        t = torch.tensor(times)[LAYOUT.group_of_channel][:, None, None]
        bias = sampling["in.field_bias"][:, None, None]
        return (1 - t) * torch.einsum("ij,bjhw->bihw", sampling["in.field_matrix"], x) + t * bias

    return field


@pytest.mark.parametrize("name", FIELDS)
def test_paths_of_a_linear_field_equal_the_published_ones(name, sampling):
    config, delta, tolerance = FIELDS[name]

    result = sample(
        linear(sampling), sampling["in.noise"], config, LAYOUT, OffsetClock(delta, LEADS)
    )
    assert largest(result, sampling[f"out.field_{name}"]) < tolerance


EXACT = {
    "euler": (SamplerConfig(num_steps=1001, timestep_shift=0.0, group_ends="exact"), 1e-3),
    "heun": (
        SamplerConfig(kind="heun", num_steps=201, timestep_shift=0.3, group_ends="exact"),
        1e-3,
    ),
    "dopri5": (SamplerConfig(kind="dopri5", rtol=1e-6, group_ends="exact"), 1e-4),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_ends_come_to_the_exact_process(name, sampling):
    config, tolerance = EXACT[name]
    clock, passed = OffsetClock(0.3, LEADS), []

    def field(x, times):
        passed.append(times)
        return linear(sampling)(x, times)

    result = sample(field, sampling["in.noise"], config, LAYOUT, clock)
    assert largest(result, sampling["exact.field"]) < tolerance
    if name == "dopri5":
        masked = replace(config, group_ends="masked")
        released = sample(linear(sampling), sampling["in.noise"], masked, LAYOUT, clock)
        assert largest(released, sampling["exact.field"]) > tolerance
        # A group that stands is at its end all the while.
        assert all(texture == 0.0 or semantic >= 0.3 for texture, semantic in passed)


@pytest.mark.parametrize("points", [10, 14, 27])
@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_increments_bring_every_group_to_time_one(points, delta):
    clock, ones = OffsetClock(delta, LEADS), torch.zeros(1, *LAYOUT.shape)
    config = SamplerConfig(num_steps=points, timestep_shift=0.0, group_ends="exact")
    result = sample(lambda x, _: torch.ones_like(x), ones, config, LAYOUT, clock)
    assert largest(result, torch.ones_like(result)) < 1e-5


@pytest.mark.parametrize("points", [10, 14, 27, 100, 250])
def test_the_mask_passes_the_published_times(points, known):
    case = known["sfd_sampling"]["grids"][f"grid_{points}_shift0"]
    config = SamplerConfig(num_steps=points, timestep_shift=0.0)
    clock, start = OffsetClock(0.3, LEADS), torch.zeros(1, *LAYOUT.shape)
    result = sample(lambda x, _: torch.ones_like(x), start, config, LAYOUT, clock)
    assert float(result[0, 0, 0, 0]) == pytest.approx(case["texture_time_integrated"], abs=1e-5)
    assert float(result[0, -1, 0, 0]) == pytest.approx(case["semantic_time_integrated"], abs=1e-5)


def test_dopri5_in_pieces_needs_fewer_evaluations_and_hangs_less_on_rounding(
    sampling, strong, monkeypatch
):
    def drawn(noise, ends):
        monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
        counted, forward = [], strong.forward
        monkeypatch.setattr(strong, "forward", lambda *a: counted.append(1) or forward(*a))
        config = SamplerConfig(kind="dopri5", group_ends=ends)
        arguments = (strong, sampling["in.labels"], torch.Generator(), config, NoGuidance())
        latents = draw_latents(*arguments, clock=OffsetClock(0.3, LEADS))
        monkeypatch.setattr(strong, "forward", forward)
        return latents, len(counted)

    noise = sampling["in.noise"]
    released, many = drawn(noise, "masked")
    pieces, few = drawn(noise, "exact")
    moved, _ = drawn(noise * (1 + 1e-7), "exact")
    assert largest(released, sampling["out.dopri5"]) < 3e-2
    assert 2 * few < many
    assert largest(moved, pieces) < 1e-3
    assert largest(pieces, sampling["out.dopri5"]) < 3e-2


SAMPLES = (
    "euler_10_shift0",
    "euler_14_shift0",
    "euler_10_shift0.3",
    "cfg",
    "cfg_interval_both",
    "cfg_interval_tex",
    "cfg_interval_sem",
    "autoguidance",
    "autoguidance_two_scales",
    "autoguidance_interval",
    "autoguidance_dopri5",
)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_equal_the_published_ones(name, known, sampling, strong, weak, monkeypatch):
    case = known["sfd_sampling"]["cases"][name]
    adaptive = "points" not in case
    config = SamplerConfig(kind="dopri5")
    if not adaptive:
        config = SamplerConfig(num_steps=case["points"], timestep_shift=case["shift"])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: sampling["in.noise"])
    random = torch.Generator()
    guidance = guidance_of(name, case)
    latents = draw_latents(
        strong, sampling["in.labels"], random, config, guidance, weak, clock=OffsetClock(0.3, LEADS)
    )
    # The released mask makes dopri5 hang on rounding; the fixture says by how much.
    assert largest(latents, sampling[f"out.{name}"]) < (3e-2 if adaptive else 1e-5)


def test_joint_guidance_acts_on_all_channels(known):
    tensors, case = load_file(FOLDER / "sfd_dit_joint.safetensors"), known["sfd_dit_joint"]
    model = build(tensors, "sd.", case["kwargs"], time_groups="shared")
    guidance = ClassifierFreeGuidance(
        scale=case["cfg"]["scale"], interval_start=case["cfg"]["interval_start"]
    )
    field = guided_velocity(model, guidance, tensors["in.cfg_y"][:2], 10)
    for name, time in (("guided", "t_guided"), ("unguided_interval", "t_unguided_interval")):
        with torch.no_grad():
            velocity = field(tensors["in.x"][:2], 2 * (case["cfg"][time],))
        assert largest(velocity, tensors[f"out.cfg_{name}"][:2]) < 1e-5


def test_autoguidance_at_most_at_one_samples_the_strong_network_alone(
    sampling, strong, weak, monkeypatch
):
    monkeypatch.setattr(torch, "randn", lambda *_, **__: sampling["in.noise"])
    config, clock = SamplerConfig(num_steps=10, timestep_shift=0.0), OffsetClock(0.3, LEADS)
    arguments = (strong, sampling["in.labels"], torch.Generator(), config, AutoGuidance(scale=1.0))
    latents = draw_latents(*arguments, weak, clock=clock)
    assert largest(latents, sampling["out.euler_10_shift0"]) < 1e-5


OFFICIAL = LatentLayout(
    groups=(ChannelGroup(name="texture", channels=32), ChannelGroup(name="semantic", channels=16)),
    height=16,
    width=16,
)


@pytest.fixture(params=["B", "L", "XL", "1p0B"])
def official(request, tmp_path, known):
    """A size, what is known of its checkpoint, and a file with these names and shapes."""
    published = json.loads((FOLDER / "sfd_shapes.json").read_text())
    described = published[f"LightningDiT-{request.param}/1"]
    # One number that is seen as a tensor of any shape: files of some kilobytes.
    tensors = {n: torch.zeros(1).expand(shape) for n, shape in described["tensors"].items()}
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"model": wrapped, "ema": tensors, "args": {}}, tmp_path / "official.pt")
    return request.param, described, tmp_path / "official.pt"


def on_meta(size, time_groups=("semantic", "texture"), layout=OFFICIAL, head=True) -> LightningDiT:
    config = LightningDiTConfig(size=size, qk_norm=True, time_groups=time_groups)
    with torch.device("meta"):
        model = LightningDiT(config, layout=layout, num_classes=1000)
        if head:
            projection = REPAHead(REPAConfig(), width=model.token_width, feature_dim=768).project
            model.add_module(HEAD, projection)
    return model


def test_official_checkpoints_are_those_of_the_named_sizes(official):
    size, described, path = official
    whole, bare = on_meta(size), on_meta(size, head=False)
    for entry in ("ema", "model"):
        tensors = read_generator(path, entry=entry, headers=True)
        load_strictly(bare, tensors, source="the file without its projection")
        tensors |= read_head(path, entry=entry, headers=True)
        load_strictly(whole, tensors, source="the file")
    assert num_parameters(whole) == described["n_params"]
    trained = num_parameters(bare) - bare.pos_embed.numel()
    assert trained == described["n_params_without_projector_and_positions"]
    joint = num_parameters(on_meta(size, "shared", head=False))
    assert joint == described["n_params_delta0_without_repa"]


@pytest.mark.parametrize("official", ["B"], indirect=True)
@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"time_groups": "each"}, "missing: t_embedder.groups.0_texture"),
        ({"time_groups": "shared"}, "missing: t_embedder.mlp.0.weight"),
        ({"size": "L"}, r"x_embedder.proj.weight \(768, 48, 1, 1\) for \(1024, 48, 1, 1\)"),
        (
            {"layout": LatentLayout.single(32, 16, 16)},
            r"x_embedder.proj.weight \(768, 48, 1, 1\) for \(768, 32, 1, 1\)",
        ),
    ],
)
def test_official_checkpoints_of_another_network_are_refused(official, choice, words):
    settings = {"size": "B", "head": False, **choice}
    if settings.get("layout"):
        settings["time_groups"] = "by_offset"
    tensors = read_generator(official[2], headers=True)
    with pytest.raises(ValueError, match=words):
        load_strictly(on_meta(**settings), tensors, source="the file")


def test_a_network_is_written_under_the_published_names(strong, network, tmp_path):
    export_generator(strong, tmp_path / "own.safetensors")
    published = {n.removeprefix("sd.") for n in network if n.startswith("sd.")}
    written = load_file(tmp_path / "own.safetensors")
    assert written.keys() == {n for n in published if not n.startswith(HEAD)}
    assert all(torch.equal(written[name], network[f"sd.{name}"]) for name in written)
