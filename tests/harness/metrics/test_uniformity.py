import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from harness.metrics.uniformity import UniformityConfig, describe_densities, measure_uniformity

SHARED = Path(os.environ.get("FRONTIER_SHARED", Path(__file__).parents[4] / "shared"))
LATENTS = SHARED / "data" / "latents"
SMALL = UniformityConfig(num_vectors=120, perplexity=10.0)


def test_equal_densities_are_perfectly_uniform():
    uniformity = describe_densities(np.full(50, 3.0))
    assert (uniformity.density_cv, uniformity.density_entropy) == pytest.approx((0.0, 1.0))
    assert uniformity.density_gini == pytest.approx(0.0)


def test_two_densities_give_the_closed_forms():
    uniformity = describe_densities(np.array([1.0, 3.0]))
    assert uniformity.density_cv == pytest.approx(0.5)
    assert uniformity.density_gini == pytest.approx(0.25)
    assert uniformity.density_entropy == pytest.approx(-(0.25 * -2 + 0.75 * np.log2(0.75)))


def test_the_gini_coefficient_is_the_mean_difference_over_twice_the_mean():
    densities = np.random.default_rng(0).lognormal(size=60)
    differences = np.abs(densities[:, None] - densities[None]).mean()
    expected = differences / 2 / densities.mean()
    assert describe_densities(densities).density_gini == pytest.approx(expected)


def test_a_seed_gives_the_same_numbers_and_vectors_beyond_the_limit_are_left_out():
    latents = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    first, second = measure_uniformity(latents, SMALL), measure_uniformity(latents, SMALL)
    assert first == second
    assert first != measure_uniformity(latents[:120], SMALL)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((5, 2)), "at least 30 vectors"),
        (np.zeros(40), "shape"),
        (np.full((40, 2), np.nan), "must be finite"),
    ],
)
def test_wrong_latents_are_refused(latents, message):
    with pytest.raises(ValueError, match=message):
        measure_uniformity(latents, SMALL)


def test_wrong_settings_and_densities_are_refused():
    with pytest.raises(ValueError, match="num_vectors must be at least"):
        UniformityConfig(num_vectors=50)
    with pytest.raises(AssertionError, match="each is a density"):
        describe_densities(np.array([1.0, 0.0]))


@pytest.mark.skipif(not LATENTS.is_dir(), reason="the published latents are not at hand")
@pytest.mark.skipif("FRONTIER_SLOW" not in os.environ, reason="two minutes; set FRONTIER_SLOW=1")
@pytest.mark.parametrize(("name", "published"), [("none", 0.263), ("dinov2", 0.178)])
def test_the_published_uniformity_comes_out(name, published):
    latents = load_file(LATENTS / f"f16d32_{name}.safetensors")["latents"]
    assert measure_uniformity(latents).density_cv == pytest.approx(published, abs=0.01)


@pytest.mark.skipif(not LATENTS.is_dir(), reason="the published latents are not at hand")
def test_aligned_latents_are_the_more_uniform_ones_in_500_vectors_already():
    config = UniformityConfig(num_vectors=500)
    none, aligned = (
        measure_uniformity(load_file(LATENTS / f"f16d32_{name}.safetensors")["latents"], config)
        for name in ("none", "dinov2")
    )
    assert aligned.density_cv < none.density_cv
    assert aligned.density_entropy > none.density_entropy
