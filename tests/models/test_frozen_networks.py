"""LPIPS and timm feature encoders, on random weights."""

import pytest
import torch

from models.alignment import NoAlignment
from models.foundation import FeatureEncoder, TimmEncoderConfig
from models.latent import LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
from models.perceptual import (
    INPUT_SCALE,
    INPUT_SHIFT,
    LPIPS,
    TAPS,
    LPIPSConfig,
    build_lpips,
    untrained_backbone,
)
from models.rounding import round_weights
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig

VIT = TimmEncoderConfig(
    name="vit_tiny_patch16_224",
    weights="random",
    model_args={
        "img_size": 32,
        "patch_size": 4,
        "depth": 1,
        "embed_dim": 24,
        "num_heads": 3,
        "num_classes": 10,
    },
)
CNN = TimmEncoderConfig(
    name="resnet10t", weights="random", feature_level=2, model_args={"num_classes": 10}
)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    tensors = {f"features.{k}": v for k, v in untrained_backbone().state_dict().items()}
    torch.save(tensors, path)
    return path


def test_lpips_follows_its_definition(backbone_file):
    lpips = build_lpips(LPIPSConfig(backbone_weights=str(backbone_file)))
    x, y = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2)
    for index, head in zip(TAPS, lpips.heads, strict=True):
        units = []
        for images in (x, y):
            shift, scale = (torch.tensor(v)[:, None, None] for v in (INPUT_SHIFT, INPUT_SCALE))
            features = lpips.backbone[: index + 1]((images - shift) / scale)
            units.append(features / (features.norm(dim=1, keepdim=True) + 1e-10))
        squares = (units[0] - units[1]) ** 2
        expected += torch.nn.functional.conv2d(squares, head).mean(dim=(1, 2, 3))
    torch.testing.assert_close(lpips(x, y), expected)
    assert lpips(x, x).tolist() == [0.0, 0.0]


def test_lpips_gradient_is_finite_where_features_vanish():
    heads = [torch.ones(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]
    backbone = untrained_backbone()
    for parameter in backbone.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    LPIPS(backbone, heads)(x, torch.ones(1, 3, 32, 32)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_absent_lpips_weights_are_named():
    with pytest.raises(ValueError, match="backbone_weights"):
        build_lpips(LPIPSConfig(backbone_weights="absent.pth"))
    with pytest.raises(ValueError, match="head_weights"):
        build_lpips(LPIPSConfig(head_weights="absent.pth"))


@pytest.mark.parametrize(("config", "width"), [(VIT, 24), (CNN, 128)])
def test_features_lie_on_the_asked_grid(config, width):
    encoder = FeatureEncoder(config)
    features = encoder.features(torch.zeros(2, 3, 32, 32), (4, 6))
    assert features.shape == (2, width, 4, 6)
    assert encoder.feature_dim == width
    assert encoder.logits(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert encoder.pooled(torch.zeros(2, 3, 32, 32)).shape[0] == 2


def test_transformer_features_are_patch_tokens_in_row_major_order():
    encoder = FeatureEncoder(VIT)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = encoder.features(images, (8, 8))
    with torch.no_grad():
        tokens = encoder.model.forward_features(images)
    torch.testing.assert_close(features[0, :, 1, 2], tokens[0, 1 + 8 + 2])


def test_normalisations_differ_as_declared():
    white = torch.ones(1, 3, 32, 32)
    values = {}
    for kind in ("repo", "none", "imagenet"):
        config = TimmEncoderConfig(name="resnet10t", weights="random", normalisation=kind)
        values[kind] = FeatureEncoder(config).prepare(white, (32, 32))[0, 0, 0, 0].item()
    assert values["repo"] == values["none"] == 1.0
    assert values["imagenet"] == pytest.approx((1 - 0.485) / 0.229)


def test_local_weights_are_loaded_with_their_head(tmp_path):
    torch.manual_seed(0)
    encoder = FeatureEncoder(VIT)
    path = tmp_path / "vit.pth"
    torch.save(encoder.model.state_dict(), path)
    config = TimmEncoderConfig(name=VIT.name, weights=str(path), model_args=VIT.model_args)
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(FeatureEncoder(config).logits(images), encoder.logits(images))


def test_unknown_networks_and_files_are_refused():
    with pytest.raises(ValueError, match="network of this timm version"):
        FeatureEncoder(TimmEncoderConfig(name="vit_unheard_of", weights="random"))
    with pytest.raises(ValueError, match="is no file"):
        FeatureEncoder(TimmEncoderConfig(name="resnet10t", weights="absent.pth"))


def test_lpips_has_the_gradient_of_both_images_in_one_pass(backbone_file):
    lpips = build_lpips(LPIPSConfig(backbone_weights=str(backbone_file)))
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    y.requires_grad_(True)
    (alone,) = torch.autograd.grad(lpips(x, y).sum(), y)
    both = torch.cat([x, y]).detach().requires_grad_(True)
    (of_both,) = torch.autograd.grad(lpips(*both.chunk(2)).sum(), both)
    torch.testing.assert_close(alone, of_both[2:])


def test_lpips_that_is_rounded_beforehand_has_the_bits_of_autocast(backbone_file):
    config = LPIPSConfig(backbone_weights=str(backbone_file))
    loss = TokenizerLoss(TokenizerLossConfig(perceptual=config), NoAlignment(), latent_dim=2)
    lpips = loss.perceptual
    assert lpips is not None
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    y.requires_grad_(True)
    found = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            distance = lpips(x, y)
        (gradient,) = torch.autograd.grad(distance.sum(), y)
        found.append((distance.detach(), gradient))
        loss.round_perceptual()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_generator_that_is_rounded_beforehand_has_the_bits_of_autocast():
    torch.manual_seed(0)
    shape = DiTShape(depth=2, width=32, num_heads=2)
    config = LightningDiTConfig(size=shape, patch_size=2)
    model = LightningDiT(config, layout=LatentLayout.single(4, 8, 8), num_classes=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.1)  # Some begin as zeros.
    x, time, labels = torch.randn(5, 4, 8, 8), torch.rand(5, 1), torch.tensor([0, 1, 2, 3, 3])
    found = []
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found.append(model(x, time, labels))
        round_weights(model)
    assert torch.equal(*found)
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    assert types["blocks.0.attn.qkv.weight"] == torch.bfloat16
    assert types["blocks.0.norm1.weight"] == torch.float32
