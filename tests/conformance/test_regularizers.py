"""One suite for every kind of regulariser, with its defaults; somebody else's kind among them."""

import my_regularizer
import pytest
import torch

from harness.config.regularizers import REGULARIZERS, AnyRegularizer
from harness.schema.reading import validate
from models.latent import LatentLayout
from models.regularizers.contract import Regularizer, rows_of

assert my_regularizer.REGULARIZERS  # The import has registered the kind `centre`.
LAYOUT = LatentLayout.single(channels=4, height=8, width=8)
COUNT, PIXELS = 3, 2


@pytest.fixture(params=list(REGULARIZERS))
def regularizer(request) -> Regularizer:
    torch.manual_seed(0)
    config = validate(AnyRegularizer, {"kind": request.param})
    config.check(LAYOUT, downsample=PIXELS, smallest_image=1)
    assert config.label == request.param
    assert config.provenance in ("reproduced", "reconstruction")
    return config.build(LAYOUT)


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(1)
    latent = torch.randn(COUNT, *LAYOUT.shape, generator=random)
    return latent, torch.rand(COUNT, 3, 16, 16, generator=random) * 2 - 1


def draw(regularizer, step):
    streams = {name: torch.Generator().manual_seed(step) for name in ("choices", "noise")}
    return regularizer.draw(COUNT, LAYOUT, **streams)


@pytest.mark.parametrize("step", range(5))
def test_latents_and_images_stay_a_batch_on_one_grid(regularizer, batch, step):
    latent, images = regularizer.perturb(*batch, draw(regularizer, step))
    assert latent.shape[:2] == (COUNT, LAYOUT.channels)
    assert images.shape[:2] == (COUNT, 3)
    assert [PIXELS * side for side in latent.shape[2:]] == list(images.shape[2:])
    assert torch.isfinite(latent).all()


def test_a_grid_that_another_one_has_made_smaller_will_do(regularizer, batch):
    smaller = (batch[0][..., :5, :4], batch[1][..., :10, :8])
    latent, images = regularizer.perturb(*smaller, draw(regularizer, 0))
    assert [PIXELS * side for side in latent.shape[2:]] == list(images.shape[2:])


def test_a_step_draws_the_same_again_and_needs_no_other_random_number(regularizer, batch):
    torch.manual_seed(2)
    before = torch.get_rng_state()
    first, second = (regularizer.perturb(*batch, draw(regularizer, 3)) for _ in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("step", range(5))
def test_a_part_of_the_batch_becomes_what_it_becomes_in_the_whole(regularizer, batch, step):
    drawn, rows = draw(regularizer, step), slice(1, 3)
    whole = regularizer.perturb(*batch, drawn)
    part = regularizer.perturb(*(each[rows] for each in batch), rows_of(drawn, COUNT, rows))
    for ours, theirs in zip(part, whole, strict=True):
        torch.testing.assert_close(ours, theirs[rows])


def test_terms_are_named_scalars_with_weights_and_train_every_parameter(regularizer, batch):
    latent = batch[0].requires_grad_()
    step = 1000
    terms = regularizer.loss(latent, latent, draw(regularizer, step), step)
    assert set(regularizer.weights_at(step)) <= set(terms)
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
    perturbed, _ = regularizer.perturb(*batch, draw(regularizer, step))
    torch.stack([*terms.values(), perturbed.square().sum()]).sum().backward()
    for weight in (latent, *regularizer.parameters()):
        assert weight.grad is not None
        assert float(weight.grad.abs().sum()) > 0
