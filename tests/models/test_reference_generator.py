"""Our LightningDiT against tensors computed with the published implementation."""

import pytest
import torch

from models.checkpoint import load_strictly
from models.guidance import ClassifierFreeGuidance, guided_velocity
from models.latent import LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
from models.parameters import num_parameters
from models.positions import rotary_angles, sincos_position_code

NAMES = ["dit_paper", "dit_qknorm_patch2", "dit_plain"]


def build(fixture) -> LightningDiT:
    published = fixture.config["kwargs"]
    config = LightningDiTConfig(
        size=DiTShape(
            depth=published["depth"],
            width=published["hidden_size"],
            num_heads=published["num_heads"],
        ),
        patch_size=published["patch_size"],
        qk_norm=published["use_qknorm"],
        swiglu=published["use_swiglu"],
        rope=published["use_rope"],
        rmsnorm=published["use_rmsnorm"],
        adaln_shift=not published["wo_shift"],
    )
    side = published["input_size"]
    layout = LatentLayout.single(published["in_channels"], side, side)
    model = LightningDiT(config, layout=layout, num_classes=published["num_classes"])
    load_strictly(model, fixture.under("sd."), source="the fixture")
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_velocity_equals_the_published_one(name, reference, error):
    fixture = reference(name)
    model = build(fixture)
    with torch.no_grad():
        velocity = model(fixture["in.x"], fixture["in.t"][:, None], fixture["in.y"])
    assert error(velocity, fixture["out.velocity"]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count_and_fixed_tables_equal_the_published_ones(name, reference, error):
    fixture = reference(name)
    model, tensors = build(fixture), fixture.under("sd.")
    assert num_parameters(model) == fixture.config["n_params"]
    code = sincos_position_code(*model.grid, model.config.shape.width)
    assert error(code, tensors["pos_embed"]) < 1e-6
    if model.config.rope:
        shape = model.config.shape
        angles = rotary_angles(*model.grid, shape.width // shape.num_heads)
        assert error(angles.cos(), tensors["feat_rope.freqs_cos"]) < 1e-6
        assert error(angles.sin(), tensors["feat_rope.freqs_sin"]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("time", "result"),
    [("t_guided", "cfg_guided"), ("t_unguided_interval", "cfg_unguided_interval")],
)
def test_guidance_on_three_channels_equals_the_published_one(name, time, result, reference, error):
    fixture = reference(name)
    settings = fixture.config["cfg"]
    guidance = ClassifierFreeGuidance(
        scale=settings["scale"], interval_start=settings["interval_start"], channels="first3"
    )
    model = build(fixture)
    half = fixture["in.x"].shape[0] // 2
    field = guided_velocity(model, guidance, fixture["in.cfg_y"][:half], model.num_classes)
    with torch.no_grad():
        velocity = field(fixture["in.x"][:half], (settings[time],))
    assert error(velocity, fixture[f"out.{result}"][:half]) < 1e-5
