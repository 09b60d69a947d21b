"""Our flow and samplers against tensors computed with the published implementation."""

import pytest
import torch

from models.latent import LatentLayout
from models.objectives.flow import flow_loss, interpolate, velocity_target
from models.sampler import SamplerConfig, sample, time_grid

LAYOUT = LatentLayout.single(8, 4, 4)
SAMPLERS = {
    "euler250_shift0.3": SamplerConfig(),
    "euler50": SamplerConfig(num_steps=50, timestep_shift=0.0),
    "heun20_shift0.3": SamplerConfig(kind="heun", num_steps=20),
    "dopri5": SamplerConfig(kind="dopri5", atol=1e-6, rtol=1e-5),
}


@pytest.fixture
def transport(reference):
    return reference("transport")


def test_path_and_target_equal_the_published_ones(transport, error):
    clean, noise, t = transport["in.data"], transport["in.noise"], transport["in.t"]
    assert error(interpolate(clean, noise, t[:, None], LAYOUT), transport["out.x_t"]) < 1e-6
    assert error(velocity_target(clean, noise), transport["out.velocity_target"]) < 1e-6


def test_loss_terms_equal_the_published_ones_for_every_sample(transport):
    prediction, target = transport["in.prediction"], transport["out.velocity_target"]
    for index in range(6):
        rows = slice(index, index + 1)
        terms = flow_loss(prediction[rows], target[rows], LAYOUT, (1.0,))
        mse, cosine = transport["out.mse_per_sample"], transport["out.cosine_loss_per_sample"]
        assert float(terms["velocity_mse"]) == pytest.approx(float(mse[index]), rel=1e-4)
        assert float(terms["velocity_direction"]) == pytest.approx(float(cosine[index]), rel=1e-4)


def test_shifted_grid_equals_the_published_one(transport, error):
    assert error(time_grid(SamplerConfig()), transport["out.t_grid_250_shift0.3"]) < 1e-6


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_equal_the_published_ones(name, transport, error):
    matrix, bias = transport["in.field_matrix"], transport["in.field_bias"][:, None, None]

    def field(x, times):
        (time,) = times
        return (1 - time) * torch.einsum("ij,bjhw->bihw", matrix, x) + time * bias

    result = sample(field, transport["in.sample_noise"], SAMPLERS[name], LAYOUT)
    assert error(result, transport[f"out.sample_{name}"]) < 1e-5
