"""Quantisers against direct formulas, and what training does to codes that nobody uses."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from models.alignment import NoAlignment
from models.autoencoder import AutoencoderConfig, QuantizedAutoencoder
from models.batch_part import BatchPart
from models.quantizers import (
    AveragedCodebook,
    GradientCodebook,
    ScalarQuantizerConfig,
    VectorQuantizerConfig,
)
from models.tokenizer_loss import QuantizedLossConfig, TokenizerLoss

GRADIENT = {"codebook_size": 7, "codebook": GradientCodebook(weight=1.0)}


def vectors(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unit_length", [False, True])
def test_codes_terms_and_gradients_are_those_of_the_formula(unit_length):
    torch.manual_seed(0)
    quantizer = VectorQuantizerConfig(**GRADIENT, unit_length=unit_length).build(3)
    torch.nn.init.normal_(quantizer.codebook)
    given, book = vectors().requires_grad_(), quantizer.codebook.detach().clone().requires_grad_()
    push = torch.randn(2, 3, 2, 2)
    found = quantizer.quantize(given)
    terms = found.terms
    ((found.latent * push).sum() + 2 * terms["codebook"] + 3 * terms["commitment"]).backward()

    # The formula, one vector at a time, with stop-gradients written out as constants.
    other = vectors().requires_grad_()
    loss, chosen, numbers = torch.zeros(()), [], 2 * 2 * 2 * 3
    for image in range(2):
        for row in range(2):
            for column in range(2):
                z = other[image, :, row, column]
                codes = book
                if unit_length:
                    z, codes = z / z.norm(), book / book.norm(dim=1, keepdim=True)
                index = int((z - codes).square().sum(dim=1).argmin())
                chosen.append(index)
                code = codes[index]
                # The decoder's gradient reaches z as if the code were z.
                loss = loss + (z * push[image, :, row, column]).sum()
                loss = loss + 2 * (code - z.detach()).square().sum() / numbers
                loss = loss + 3 * (z - code.detach()).square().sum() / numbers
                torch.testing.assert_close(found.latent[image, :, row, column], code)
    loss.backward()
    assert found.indices.flatten().tolist() == chosen
    torch.testing.assert_close(given.grad, other.grad)
    torch.testing.assert_close(quantizer.codebook.grad, book.grad)
    torch.testing.assert_close(quantizer.grid(found.indices), found.latent.detach())


REFERENCE = json.loads(Path(__file__).with_name("quantizer_reference.json").read_text())
"""Numbers of vector-quantize-pytorch, made by make_quantizer_reference.py."""


@pytest.mark.parametrize("case", ["gradient", "averaged", "averaged, unit length"])
def test_codes_losses_gradients_and_averages_are_those_of_a_maintained_library(case):
    codebook = GradientCodebook() if case == "gradient" else AveragedCodebook(decay=0.9)
    config = VectorQuantizerConfig(
        codebook_size=7, codebook=codebook, unit_length="unit length" in case
    )
    quantizer, start = config.build(3).train(), torch.tensor(REFERENCE[case]["start"])
    names = ("codebook", "sums") if quantizer.averaged else ("codebook",)
    quantizer.load_state_dict({**quantizer.state_dict(), **dict.fromkeys(names, start)})
    for step in REFERENCE[case]["steps"]:
        theirs = {name: torch.tensor(value) for name, value in step.items()}
        given = theirs["given"].requires_grad_()
        found = quantizer.quantize(given, torch.zeros_like(given))
        loss = sum(term for name, term in found.terms.items() if name != "perplexity")
        ((found.latent * theirs["push"]).sum() + loss).backward()
        assert torch.equal(found.indices, theirs["indices"])
        # Its one error of a learnt codebook pulls both ends; ours are two terms of the same value.
        ours = {"loss": found.terms["commitment"], "latent": found.latent, "gradient": given.grad}
        ours["codes"] = quantizer.codes(torch.arange(7))
        if quantizer.averaged:
            ours |= {"counts": quantizer.counts, "sums": quantizer.sums}
        else:
            ours["codebook_gradient"], quantizer.codebook.grad = quantizer.codebook.grad, None
        for name, value in ours.items():
            torch.testing.assert_close(value.detach(), theirs[name], msg=f"{case}: {name}")


def test_levels_have_the_numbers_and_values_of_a_maintained_library():
    codes = ScalarQuantizerConfig(levels=(4, 3, 2)).build(3).codes(torch.arange(24))
    torch.testing.assert_close(codes, torch.tensor(REFERENCE["levels 4 3 2"]))


def test_averaged_codes_follow_their_vectors_in_training_only():
    torch.manual_seed(0)
    config = VectorQuantizerConfig(
        codebook_size=2, unit_length=False, codebook=AveragedCodebook(decay=0.75)
    )
    quantizer = config.build(3)
    start = torch.tensor([[5.0, 0, 0], [-5.0, 0, 0]])
    quantizer.codebook.copy_(start)
    quantizer.sums.copy_(start)
    given, noise = vectors(), vectors(1)
    quantizer.eval().quantize(given, noise)
    assert torch.equal(quantizer.codebook, start)
    terms = quantizer.train().quantize(given, noise).terms
    assert set(terms) == {"commitment", "perplexity"}
    rows = given.permute(0, 2, 3, 1).reshape(-1, 3)
    first = rows[rows[:, 0] > 0]
    expected = (0.75 * start[0] + 0.25 * first.sum(dim=0)) / (0.75 + 0.25 * len(first))
    torch.testing.assert_close(quantizer.codebook[0], expected)


@pytest.mark.parametrize("codebook", [GradientCodebook(), AveragedCodebook()])
def test_an_unused_code_starts_anew_at_a_vector_of_the_batch(codebook):
    torch.manual_seed(0)
    config = VectorQuantizerConfig(
        codebook_size=3, unit_length=False, codebook=codebook, restart_after=2
    )
    quantizer = config.build(3).train()
    start = torch.tensor([[0.0, 0, 0], [99, 0, 0], [0, 99, 0]])
    quantizer.load_state_dict({**quantizer.state_dict(), "codebook": start})
    if quantizer.averaged:
        quantizer.load_state_dict({**quantizer.state_dict(), "sums": start})
    noise = vectors(9)
    for seed in (0, 1):
        assert quantizer.quantize(vectors(seed), noise).indices.unique().tolist() == [0]
        assert quantizer.codebook[1:].abs().amax(dim=1).tolist() == pytest.approx([99, 99])
    found = quantizer.quantize(vectors(2), noise)
    assert found.indices.unique().tolist() == [0, 1, 2]
    rows = vectors(2).permute(0, 2, 3, 1).reshape(-1, 3)
    chosen = rows[noise[:, 0].flatten().argsort(descending=True)[:2]]
    # They were chosen as they are; a moving average has gone on from there.
    codes = found.latent.permute(0, 2, 3, 1).reshape(-1, 3)
    assert all(any(torch.equal(code, row) for code in codes) for row in chosen)
    if not quantizer.averaged:
        torch.stack([*found.terms.values()]).sum().backward()


@pytest.mark.parametrize("codebook", [GradientCodebook(), AveragedCodebook()])
def test_two_workers_learn_the_codes_of_one(codebook):
    config = VectorQuantizerConfig(codebook_size=5, codebook=codebook, restart_after=1)
    batches, noise = [vectors(seed, 4) for seed in range(4)], [vectors(s, 4) for s in range(9, 13)]

    def built():
        torch.manual_seed(0)
        return config.build(3).train()

    one = built()
    for batch, lots in zip(batches, noise, strict=True):
        one.quantize(batch, lots)
    # Each worker runs in turn; what the others would add is taken from a first, unsummed pass.
    workers = [built(), built()]
    for batch, lots in zip(batches, noise, strict=True):
        said: list[list[torch.Tensor]] = [[], []]
        states = [{n: v.clone() for n, v in w.state_dict().items()} for w in workers]
        for _ in range(6):
            for number, worker in enumerate(workers):
                worker.load_state_dict(states[number])
                heard = iter(said[1 - number])
                own: list[torch.Tensor] = []

                def add(mine, own=own, heard=heard):
                    own.append(mine.clone())
                    theirs = next(heard, None)
                    return mine if theirs is None else mine + theirs

                rows = slice(2 * number, 2 * number + 2)
                worker.part = BatchPart(first=2 * number, total=4, sum=add)
                worker.quantize(batch[rows], lots[rows])
                said[number] = own
    for worker in workers:
        for name, value in one.state_dict().items():
            torch.testing.assert_close(worker.state_dict()[name], value, msg=name)


def test_scalars_are_rounded_to_their_levels_and_numbered_uniquely():
    quantizer = ScalarQuantizerConfig(levels=(4, 3, 2)).build(3)
    every = quantizer.codes(torch.arange(24))
    assert every.unique(dim=0).shape == (24, 3)
    assert every[:, 0].unique().tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert every[:, 1].unique().tolist() == [-1, 0, 1]
    given = (3 * vectors()).requires_grad_()
    found = quantizer.quantize(given)
    torch.testing.assert_close(quantizer.grid(found.indices), found.latent.detach())
    found.latent.sum().backward()
    slope = 1 - torch.tanh(given.detach()).square()
    stretch = torch.tensor([4 / 3, 3 / 2, 2.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(given.grad, slope * stretch)
    extreme = quantizer.quantize(torch.full((1, 3, 1, 1), 50.0)).indices
    assert extreme.item() == 23


@pytest.mark.parametrize(
    "quantizer", [VectorQuantizerConfig(codebook_size=16), ScalarQuantizerConfig(levels=(4, 4, 2))]
)
def test_the_loss_is_the_sum_of_means_and_reaches_every_weight(quantizer):
    torch.manual_seed(0)
    shape = AutoencoderConfig(
        base_width=8,
        width_multipliers=(1, 2),
        num_blocks=1,
        attention_resolutions=(),
        norm_groups=4,
    )
    model = QuantizedAutoencoder(shape, quantizer, latent_dim=3, resolution=8)
    criterion = TokenizerLoss(QuantizedLossConfig(), NoAlignment(), latent_dim=3)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    loss = criterion.autoencoder_loss(model, images, torch.randn(2, 3, 4, 4), None, 0)
    assert float(loss.terms["l2"]) == pytest.approx(
        float(functional.mse_loss(loss.reconstruction, images))
    )
    total = sum(loss.weights[name] * term for name, term in loss.terms.items())
    torch.testing.assert_close(loss.total.detach(), total)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    indices = model.eval().encode(images).indices
    assert indices.shape == (2, 16)
    assert model.decode(indices).shape == images.shape
