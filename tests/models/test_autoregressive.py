"""The autoregressive generator: published sizes, loss, cached sampling, truncation and guidance."""

import pytest
import torch
from torch.nn import functional

from models.autoregressive import SIZES, AutoregressiveTransformer, DecoderShape
from models.guidance import NoGuidance
from models.latent import IndexLayout
from models.objectives.next_token import NextTokenObjective
from models.parameters import num_parameters
from models.token_sampling import LogitGuidance, TokenSamplerConfig, draw_codes, truncate

LAYOUT = IndexLayout(codebook_size=11, grids=((3, 3),))
TINY = DecoderShape(depth=2, width=16, num_heads=2, hidden_multiple=8)


@pytest.fixture
def model() -> AutoregressiveTransformer:
    torch.manual_seed(0)
    model = AutoregressiveTransformer(TINY, layout=LAYOUT, num_classes=3).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.requires_grad_(False)


@pytest.mark.parametrize(("name", "millions"), [("111M", 111), ("343M", 343), ("775M", 775)])
def test_published_sizes_have_their_parameters(name, millions):
    with torch.device("meta"):
        layout = IndexLayout(codebook_size=16_384, grids=((16, 16),))
        model = AutoregressiveTransformer(SIZES[name], layout=layout, num_classes=1000)
    assert round(num_parameters(model) / 1e6) == millions


def test_a_code_depends_on_the_class_and_the_codes_before_it_alone(model):
    indices = torch.randint(11, (1, 8), generator=torch.Generator().manual_seed(0))
    logits = model(torch.tensor([1]), indices)
    assert logits.shape == (1, 9, 11)
    for place in range(8):
        other = indices.clone()
        other[0, place] = (other[0, place] + 1) % 11
        moved = (model(torch.tensor([1]), other) - logits).abs().amax(dim=2)[0]
        assert moved[: place + 1].max() == 0
        assert moved[place + 1] > 1e-3
    assert (model(torch.tensor([2]), indices) - logits).abs().amax(dim=2).min() > 1e-3


def test_positions_are_rows_and_columns(model):
    # A step of one row and a step of one column rotate unlike pairs of a head's numbers.
    angles = model.cosine.acos()
    row, column = angles[1 + 3] - angles[1], angles[1 + 1] - angles[1]
    assert (row[:4] > 0).any()
    assert (row[4:] == 0).all()
    assert (column[:4] == 0).all()
    assert (column[4:] > 0).any()
    assert (angles[0] == 0).all()


@pytest.mark.parametrize(
    "guidance",
    [NoGuidance(), LogitGuidance(scale=3.0), LogitGuidance(scale=3.0, schedule="linear")],
)
@pytest.mark.parametrize("sampler", [TokenSamplerConfig(), TokenSamplerConfig(top_k=4, top_p=0.9)])
@pytest.mark.parametrize("slices", [1, 2])
def test_cached_sampling_equals_uncached_token_for_token(model, sampler, guidance, slices):
    labels = torch.tensor([0, 2, 1, 1, 0])
    drawn = draw_codes(
        model, labels, torch.Generator().manual_seed(3), sampler, guidance, slices=slices
    )
    random, found = torch.Generator().manual_seed(3), torch.empty(5, 0, dtype=torch.int64)
    for place in range(9):
        logits = model(labels, found)[:, -1]
        if guidance.kind != "none":
            null = model(torch.full_like(labels, 3), found)[:, -1]
            scale = 1 + 2 * place / 8 if guidance.schedule == "linear" else 3.0
            logits = null + scale * (logits - null)
        chances = truncate(logits, sampler).softmax(dim=1)
        found = torch.cat([found, torch.multinomial(chances, 1, generator=random)], dim=1)
    assert torch.equal(drawn, found)
    assert drawn.unique().numel() > 3


def test_truncation_keeps_what_it_says():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    kept = truncate(logits, TokenSamplerConfig(top_k=2)).softmax(dim=1)
    torch.testing.assert_close(kept, torch.tensor([[0, 2 / 3, 0, 1 / 3]]))
    kept = truncate(logits, TokenSamplerConfig(top_p=0.7)).softmax(dim=1)
    torch.testing.assert_close(kept, torch.tensor([[0, 2 / 3, 0, 1 / 3]]))
    kept = truncate(logits, TokenSamplerConfig(top_p=1e-6)).softmax(dim=1)
    assert kept.tolist() == [[0, 1, 0, 0]]
    halved = truncate(logits, TokenSamplerConfig(temperature=0.5)).softmax(dim=1)
    torch.testing.assert_close(halved, logits.exp().square() / logits.exp().square().sum())


def test_the_loss_is_the_mean_cross_entropy_and_quarters_show_its_places(model):
    indices = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])
    objective = NextTokenObjective(num_classes=3, class_dropout=0.5)
    draws = objective.draw(labels, LAYOUT.shape, torch.Generator().manual_seed(5), 0)
    assert set(draws["labels"].tolist()) >= {3}
    loss = objective.loss(model, indices, draws)
    logits = model(draws["labels"], indices[:, :-1])
    expected = functional.cross_entropy(logits.reshape(-1, 11), indices.reshape(-1))
    torch.testing.assert_close(loss.total, expected)
    first = functional.cross_entropy(logits[:, :3].reshape(-1, 11), indices[:, :3].reshape(-1))
    torch.testing.assert_close(loss.terms["cross_entropy_1of4"], first)


def check_learning(model: torch.nn.Module, indices: torch.Tensor) -> None:
    """Whether a step reaches every weight, and 80 of them learn the codes of three by heart."""
    objective = NextTokenObjective(num_classes=3, class_dropout=0.0)
    labels = torch.tensor([0, 1, 2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        objective.loss(model, indices, {"labels": labels}).total.backward()
        optimizer.step()
    seen = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not seen
    drawn = draw_codes(model.eval(), labels, torch.Generator(), TokenSamplerConfig(), NoGuidance())
    assert torch.equal(drawn, indices)


def test_a_step_reaches_every_weight_and_learns_the_codes_by_heart():
    torch.manual_seed(0)
    model = AutoregressiveTransformer(TINY, layout=LAYOUT, num_classes=3).train()
    check_learning(model, torch.randint(11, (3, 9)))
