"""Times, samplers and guidance per channel group, held to tensors of Semantic-First Diffusion.

SFD (arXiv 2512.04926) has texture channels and, after them, semantic ones that run ahead by an
offset.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import load_strictly, read_generator
from models.clock import OffsetClock
from models.drawing import draw_latents
from models.guidance import AutoGuidance, ClassifierFreeGuidance, NoGuidance, guided_velocity
from models.latent import ChannelGroup, LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
from models.repa import without_head
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
    load_strictly(model, without_head(own), source="the fixture")
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


@pytest.mark.parametrize("name", FIELDS)
def test_paths_of_a_linear_field_equal_the_published_ones(name, sampling):
    config, delta, tolerance = FIELDS[name]

    def field(x, times):
        t = torch.tensor(times)[LAYOUT.group_of_channel][:, None, None]
        bias = sampling["in.field_bias"][:, None, None]
        return (1 - t) * torch.einsum("ij,bjhw->bihw", sampling["in.field_matrix"], x) + t * bias

    result = sample(field, sampling["in.noise"], config, LAYOUT, OffsetClock(delta, LEADS))
    assert largest(result, sampling[f"out.field_{name}"]) < tolerance


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
)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_equal_the_published_ones(name, known, sampling, strong, weak, monkeypatch):
    case = known["sfd_sampling"]["cases"][name]
    config = SamplerConfig(num_steps=case["points"], timestep_shift=case["shift"])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: sampling["in.noise"])
    random = torch.Generator()
    guidance = guidance_of(name, case)
    latents = draw_latents(
        strong, sampling["in.labels"], random, config, guidance, weak, clock=OffsetClock(0.3, LEADS)
    )
    assert largest(latents, sampling[f"out.{name}"]) < 1e-5
