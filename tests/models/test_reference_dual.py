"""TokenFlow's quantiser, networks and loss, held to tensors of its published code."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from models import dual_quantizer
from models.alignment import NoAlignment
from models.autoencoder import AutoencoderConfig, Bottleneck, ConvolutionalAutoencoder
from models.batch_part import BatchPart
from models.checkpoint import load_strictly
from models.discriminator import DiscriminatorConfig
from models.dual_autoencoder import (
    DualAutoencoder,
    SemanticDecoderConfig,
    from_official,
    read_dual_tokenizer,
)
from models.dual_quantizer import DualQuantizer, DualQuantizerConfig
from models.foundation import EncoderNetwork, FeatureEncoder, TimmEncoderConfig
from models.perceptual import LPIPS, LPIPSConfig, untrained_backbone
from models.semantic import as_map, as_tokens
from models.tokenizer_loss import QuantizedLossConfig, TokenizerLoss

from .conftest import SHARED

FOLDER = SHARED / "fixtures" / "variants"
OUTPUT, GRADIENT = 1e-5, 1e-4
SMALL = DualQuantizerConfig(codebook_size=48, semantic_dim=6, pixel_dim=3)
MAP = torch.zeros(1, 1, 4, 4)


@pytest.fixture(scope="module")
def described():
    if not FOLDER.is_dir():
        pytest.skip(f"the reference tensors are not at {FOLDER}")
    return json.loads((FOLDER / "tokenflow_fixtures.json").read_text())


@pytest.fixture
def tensors(described, request):
    return load_file(FOLDER / f"tokenflow_{request.param}.safetensors")


def of(name):
    return pytest.mark.parametrize("tensors", [name], indirect=True)


def apart(actual, expected):
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


class Student(EncoderNetwork):
    """Stands where a feature network does, and is not asked."""

    @property
    def feature_dim(self) -> int:
        return 10

    @property
    def stride(self) -> int:
        return 2

    @property
    def input_size(self) -> tuple[int, int]:
        return (8, 8)


def network(**changes):
    settings: dict[str, Any] = {
        "quantizer": replace(SMALL, scales=(1, 2, 4)),
        "semantic_decoder": SemanticDecoderConfig(width=24, num_heads=3, num_blocks=2),
        "semantic_encoder": Student(),
        "pixel_width": 8,
        "feature_dim": 14,
        "resolution": 8,
    }
    config = AutoencoderConfig(
        base_width=32, width_multipliers=(1, 2), num_blocks=1, attention_resolutions=(4,)
    )
    return DualAutoencoder(config, **{**settings, **changes})


def fill(made, tensors):
    """Load what a fixture holds of a network, strictly in each part that it holds."""
    ours = from_official({n.removeprefix("sd."): t for n, t in tensors.items() if n[:3] == "sd."})
    parts = {".".join(name.split(".")[:-1]) or name for name in ours}
    expected = made.state_dict()
    held = {n for n in expected if any(n == p or n.startswith(f"{p}.") for p in parts)}
    tops = {name.split(".")[0] for name in ours} - {"quantizer"}
    assert {n for n in expected if n.split(".")[0] in tops} <= held | set(ours)
    load_strictly(made, {**expected, **ours}, source="the fixture")
    return made


def quantizer(tensors, **changes):
    made = DualQuantizer(replace(SMALL, **changes), 4)
    with torch.no_grad():
        made.semantic.copy_(tensors["sd.embedding_vqkd.weight"])
        made.pixel.copy_(tensors["sd.embedding_vqgan.weight"])
    return made


@of("quantizer")
def test_pairs_terms_gradients_and_usage_are_the_published_ones(tensors, described):
    scalars, made = described["tokenflow_quantizer"]["scalars"], quantizer(tensors)
    z = tensors["in.z"].clone().requires_grad_()
    found = made.quantize(z)
    assert torch.equal(found.indices.flatten(), tensors["out.indices"])
    assert apart(found.latent, tensors["out.quantised"]) < OUTPUT
    assert apart(made.grid(found.indices), tensors["out.codes_of_indices"]) < OUTPUT
    weights = made.config.weights
    assert float(found.terms["codebook"].detach()) == pytest.approx(scalars["vq_loss"], rel=OUTPUT)
    commitment = weights["commitment"] * found.terms["commitment"]
    assert float(commitment.detach()) == pytest.approx(scalars["commit_loss"], rel=OUTPUT)
    assert float(found.terms["usage"]) == pytest.approx(scalars["codebook_usage"], rel=OUTPUT)
    terms = sum(weight * found.terms[name] for name, weight in weights.items())
    (terms + (found.latent * tensors["in.cotangent"]).sum()).backward()
    for grad, name in (
        (z.grad, "z"),
        (made.semantic.grad, "embedding_vqkd.weight"),
        (made.pixel.grad, "embedding_vqgan.weight"),
    ):
        assert apart(grad, tensors[f"grad.{name}"]) < GRADIENT, name
    again = made.quantize(tensors["in.second_z"])
    assert torch.equal(again.indices.flatten(), tensors["out.second_indices"])
    expected = scalars["codebook_usage_after_second"]
    assert float(again.terms["usage"]) == pytest.approx(expected, rel=OUTPUT)


def whole(_self, pairs):
    return functional.normalize(pairs, dim=-1)


@of("quantizer")
@pytest.mark.parametrize(
    ("mistake", "share"),
    [
        (("_unit", whole), 0.34),
        (("_unit", lambda _self, pairs: pairs), 0.34),
        ("semantic alone", 0.81),
        ("pixel first", 1.0),
    ],
)
def test_the_traps_of_the_comparison_choose_other_pairs(tensors, mistake, share, monkeypatch):
    z, changes = tensors["in.z"], {}
    if mistake == "semantic alone":
        changes = {"pixel_distance_weight": 0.0}
    elif mistake == "pixel first":
        z = torch.cat([z[:, 6:], z[:, :6]], dim=1)
    else:
        monkeypatch.setattr(DualQuantizer, *mistake)
    found = quantizer(tensors, **changes).quantize(z).indices.flatten()
    assert float((found != tensors["out.indices"]).float().mean()) == pytest.approx(share, abs=0.01)


@of("multiscale")
def test_residuals_over_scales_are_the_published_ones(tensors, described, monkeypatch):
    scalars, made = described["tokenflow_multiscale"]["scalars"], fill(network(), tensors)
    own = made.quantizer
    seen = []
    monkeypatch.setattr(own, "_at", lambda small, at=own._at: (seen.append(small), at(small))[1])

    def features():
        return made.join(
            as_map(tensors["in.semantic_tokens"], MAP), made.quant_conv(tensors["in.pixel_map"])
        )

    found = own.quantize(features())
    assert torch.equal(found.indices, tensors["out.indices"])
    assert apart(found.latent, tensors["out.quantised"]) < OUTPUT
    for number, small in enumerate(seen):
        assert apart(small, tensors[f"out.scale{number}.residual"]) < OUTPUT
    assert float(found.terms["codebook"].detach()) == pytest.approx(scalars["vq_loss"], rel=OUTPUT)
    commitment = 0.25 * found.terms["commitment"]
    assert float(commitment.detach()) == pytest.approx(scalars["commit_loss"], rel=OUTPUT)
    assert float(found.terms["usage"]) == pytest.approx(scalars["codebook_usage_mean"], rel=OUTPUT)
    assert apart(own.grid(found.indices), tensors["out.code_sum"]) < OUTPUT
    first_two = own.grid(found.indices[:, :5])
    assert apart(first_two, tensors["out.code_sum_first_two_scales"]) < OUTPUT
    with pytest.raises(ValueError, match="whole scales"):
        own.grid(found.indices[:, :6])
    loss = found.terms["codebook"] + commitment + (found.latent * tensors["in.cotangent"]).sum()
    loss.backward()
    official = {
        "encode_task_layer.0.weight": made.to_codes[0].weight,
        "encode_task_layer.2.bias": made.to_codes[2].bias,
        "quant_conv.weight": made.quant_conv.weight,
        "quantize.embedding_vqgan.weight": own.pixel,
        "quantize.embedding_vqkd.weight": own.semantic,
    }
    for name, weight in official.items():
        assert apart(weight.grad, tensors[f"grad.{name}"]) < GRADIENT, name

    monkeypatch.setattr(own, "_scales_of_step", lambda _learns: iter((1, 4)))
    found = own.quantize(features())
    assert torch.equal(found.indices, tensors["out.indices_dropped"])
    assert apart(found.latent, tensors["out.quantised_dropped"]) < OUTPUT
    assert float(found.terms["codebook"].detach()) == pytest.approx(
        scalars["vq_loss_dropped"], rel=OUTPUT
    )
    commitment = 0.25 * found.terms["commitment"]
    assert float(commitment.detach()) == pytest.approx(scalars["commit_loss_dropped"], rel=OUTPUT)


@of("multiscale")
@pytest.mark.parametrize(
    ("instead", "deviation"),
    [
        ({"area": {"mode": "bilinear"}}, 0.856),
        ({"area": {"mode": "bicubic", "antialias": True}}, 0.915),
        ({"bicubic": {"mode": "bilinear"}}, 0.428),
        ({"bicubic": {"mode": "nearest"}}, 0.592),
    ],
)
def test_the_traps_of_resizing_miss_the_published_codes(tensors, instead, deviation, monkeypatch):
    real = functional.interpolate

    def other(cells, size, mode):
        return real(cells, size, **instead.get(mode, {"mode": mode}))

    made = fill(network(), tensors)
    monkeypatch.setattr(dual_quantizer.functional, "interpolate", other)
    with torch.no_grad():
        features = made.join(
            as_map(tensors["in.semantic_tokens"], MAP), made.quant_conv(tensors["in.pixel_map"])
        )
        found = made.quantizer.quantize(features).latent
    assert apart(found, tensors["out.quantised"]) == pytest.approx(deviation, abs=0.002)


def test_a_step_drops_one_scale_at_most_and_never_the_first():
    config = replace(SMALL, scales=(1, 2, 4), scale_drop=0.5)
    made, features, noise = (
        DualQuantizer(config, 4),
        torch.randn(2, 9, 4, 4),
        torch.zeros(2, 9, 4, 4),
    )
    lengths = []
    for seed in range(40):
        torch.manual_seed(seed)
        lengths.append(made.quantize(features, noise).indices.shape[1])
    # All scales, without the second, without the last.
    assert set(lengths) == {21, 17, 5}
    assert 10 < lengths.count(21) < 30
    assert made.quantize(features).indices.shape[1] == 21
    assert made.eval().quantize(features, noise).indices.shape[1] == 21


def test_usage_is_that_of_all_workers_images():
    features = torch.randn(4, 9, 4, 4)
    whole = DualQuantizer(SMALL, 4)
    expected = whole.quantize(features)
    parts = [DualQuantizer(SMALL, 4) for _ in range(2)]
    sent = []
    for asked in (False, True):
        for rank, part in enumerate(parts):
            part.load_state_dict(whole.state_dict() | {"recent": torch.zeros(131_072).long()})
            numbers = iter(range(2))

            def total(own, rank=rank, numbers=numbers, asked=asked):
                position = next(numbers)
                if not asked:
                    sent.append((rank, position, own))
                    return own
                values = [value for _, other, value in sent if other == position]
                return torch.stack(values).sum(dim=0)

            part.part = BatchPart(first=2 * rank, total=4, sum=total)
            usage = part.quantize(features[2 * rank :][:2]).terms["usage"]
            assert not asked or float(usage) == float(expected.terms["usage"])
    assert torch.equal(parts[1].recent, whole.recent)


@of("semantic_decoder")
def test_the_semantic_decoder_is_the_published_one(tensors):
    made = fill(network(), tensors).eval()
    block = made.semantic_decoder.trunk.blocks[0](tensors["in.block_input"])
    assert apart(block, tensors["out.block_output"]) < OUTPUT
    found = as_tokens(made.decode_features(tensors["in.quantised"]))
    assert apart(found, tensors["out.semantic_reconstruction"]) < OUTPUT


@of("pixel_decoder")
def test_the_pixel_decoder_is_the_published_one(tensors):
    made = fill(network(), tensors)
    assert apart(made.decode_channels(tensors["in.quantised"]), tensors["out.image"]) < OUTPUT


@of("pixel_encoder")
def test_the_pixel_encoder_is_the_published_one(tensors):
    made = fill(network(), tensors)
    assert apart(made.encoder(tensors["in.image"]), tensors["out.features"]) < OUTPUT


class Recorded(ConvolutionalAutoencoder):
    """Gives the reconstructions of a fixture."""

    def __init__(self, tensors, terms):
        nn.Module.__init__(self)
        self.image = tensors["in.reconstruction"].clone().requires_grad_()
        self.semantic = as_map(tensors["in.semantic_reconstruction"], MAP)
        self.terms, self.dual = terms, network()

    def bottleneck(self, x, noise):
        def terms(features):
            semantic = self.dual.distance_to_features(self.semantic, features)
            return {**self.terms, "semantic": semantic}

        names = ("vq", "commit", "semantic")
        return Bottleneck(mean=x, latent=x, terms=terms, weights=dict.fromkeys(names, 1.0))

    def decode_channels(self, z):
        return self.image

    def decoder_parameters(self):
        return []


@of("loss")
@pytest.mark.parametrize("moment", ["before_start", "from_start"])
def test_the_loss_and_its_start_are_the_published_ones(tensors, described, moment):
    config = described["tokenflow_loss"]["config"]
    scalars = described["tokenflow_loss"]["scalars"][moment]
    discriminator = DiscriminatorConfig(
        num_layers=2, base_width=8, weight=0.5, start_step=20_000, balance="constant"
    )
    loss = TokenizerLoss(
        QuantizedLossConfig(discriminator=discriminator), NoAlignment(), latent_dim=9
    )
    prefix = "sd.discriminator."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    assert loss.discriminator is not None
    load_strictly(loss.discriminator, weights, source="the fixture")
    codes = {n: torch.tensor(config[f"{n}_loss"]) for n in ("vq", "commit")}
    made = Recorded(tensors, codes)
    # The published step counts from 1.
    batch, target = scalars["global_step"] - 1, as_map(tensors["in.teacher_features"], MAP)
    outcome = loss.autoencoder_loss(
        made, tensors["in.image"], torch.zeros(2, 9, 4, 4), target, batch
    )
    expected = scalars["total"]
    assert float(outcome.total.detach()) == pytest.approx(expected, rel=OUTPUT)
    assert float(outcome.terms["l2"]) == pytest.approx(scalars["rec_loss"], rel=OUTPUT)
    assert float(outcome.terms["semantic"]) == pytest.approx(scalars["semantic_loss"], rel=1e-6)
    outcome.total.backward()
    assert apart(made.image.grad, tensors[f"grad.{moment}.reconstruction"]) < GRADIENT
    assert loss.discriminator_is_on(batch)
    own = loss.discriminator_loss(outcome.target, outcome.reconstruction, batch)
    expected = scalars["discriminator_loss (weighted)"]
    assert float(own.detach()) == pytest.approx(expected, rel=OUTPUT)
    own.backward()
    assert all(p.grad is not None for p in loss.discriminator.parameters())
    made.dual.semantic_loss = "l2"
    assert float(made.dual.distance_to_features(made.semantic, target)) > 2


@of("loss")
def test_teachers_see_pixels_that_are_cut_off_and_standardised(tensors):
    for kind in ("clip", "siglip"):
        config = TimmEncoderConfig(name="resnet10t", weights="random", normalisation=kind)
        seen = FeatureEncoder(config).prepare(tensors["in.image"], (16, 16))
        assert apart(seen, tensors[f"out.teacher_input_{kind}"]) < OUTPUT


def test_dropout_of_lpips_is_an_option_and_does_not_depend_on_slices():
    heads = [torch.ones(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]
    images, found = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    backbone = untrained_backbone()
    plain, dropped = LPIPS(backbone, heads), LPIPS(backbone, heads, 0.5)
    assert torch.equal(plain(images, found), plain(images, found))
    assert not torch.equal(dropped(images, found), dropped(images, found))
    loss = TokenizerLoss(QuantizedLossConfig(), NoAlignment(), latent_dim=9)
    loss.perceptual, loss.config = dropped, QuantizedLossConfig(perceptual=LPIPSConfig(dropout=0.5))
    values = []
    for slices in (1, 2):
        torch.manual_seed(1)
        # Of a part, the masks are those of the batch, whatever the slices.
        loss.divide(BatchPart(first=1, total=3), slices)
        terms, _, _, gradient = loss._reconstruction_terms(images, found)
        values.append((terms["perceptual"], gradient))
    torch.testing.assert_close(*values)


FILES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tokenflow_clipb_32k_enhanced.pt": (
        {"name": "vit_base_patch16_clip_quickgelu_224", "model_args": {"num_classes": 0}},
        {"resolution": 224, "feature_dim": 512},
    ),
    "teacher clipb_224, plain": (
        {"name": "vit_base_patch16_clip_quickgelu_224", "model_args": {"num_classes": 0}},
        {"resolution": 224, "feature_dim": 512},
    ),
    "tokenflow_siglip_32k.pt": (
        {"name": "vit_so400m_patch14_siglip_384", "feature_level": -2, "feature_norm": False},
        {"resolution": 432, "feature_dim": 1152},
    ),
    "teacher vitamin_xlarge_256": (
        {"name": "vitamin_xlarge_256", "model_args": {"num_classes": 0, "final_norm": False}},
        {"resolution": 256, "feature_dim": 1152},
    ),
}


@pytest.mark.parametrize("file", FILES)
def test_official_files_fit_strictly(file, described, tmp_path):
    shapes = json.loads((FOLDER / "tokenflow_shapes.json").read_text())
    (tensors,) = (entry["tensors"] for name, entry in shapes.items() if name.startswith(file))
    encoder, settings = FILES[file]
    cells, clip = settings["resolution"] // 16, "clip" in encoder["name"]
    enhanced = AutoencoderConfig(base_width=256, num_blocks=4, attention_resolutions=(cells,))
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in tensors.items()}
        made = DualAutoencoder(
            AutoencoderConfig(attention_resolutions=(cells,)),
            DualQuantizerConfig(),
            decoder=enhanced if "enhanced" in file else None,
            semantic_decoder=SemanticDecoderConfig(width=768 if clip else 1152),
            semantic_encoder=FeatureEncoder(TimmEncoderConfig(weights="random", **encoder)),
            **settings,
        )
        load_strictly(made, from_official(weights), source=file)


@of("pixel_encoder")
def test_files_are_known_by_their_names_and_ours_pass_as_they_are(tensors, tmp_path):
    made = network()
    torch.save({"model": made.state_dict()}, tmp_path / "ours.pt")
    load_strictly(network(), read_dual_tokenizer(tmp_path / "ours.pt"), source="ours")
    official = {n.removeprefix("sd."): t for n, t in tensors.items() if n[:3] == "sd."}
    official |= {
        "quantize.embedding_vqkd.weight": torch.ones(48, 6),
        "decoder.conv_blocks.0.res.0.conv1.bias": torch.ones(1),
        "decoder.conv_blocks.1.res.0.conv1.bias": torch.zeros(1),
    }
    torch.save({"model": official}, tmp_path / "official.pt")
    found = read_dual_tokenizer(tmp_path / "official.pt")
    assert found.entry == "model"
    assert float(found["decoder.up.1.block.0.conv1.bias"]) == 1.0
    assert set(made.encoder.state_dict()) == {
        n.removeprefix("encoder.") for n in found if n.startswith("encoder.")
    }
