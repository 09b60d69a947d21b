"""What metrics take of a timm network: one pass, and the published input of FD-DINOv2."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from models.foundation import STATISTICS, FeatureEncoder, TimmEncoderConfig

DINOV2 = TimmEncoderConfig(
    name="vit_small_patch14_dinov2.lvd142m",
    weights="random",
    normalisation="imagenet",
    antialias=True,
    interpolation="bicubic",
    position_resize="dinov2",
    input_size=224,
    model_args={"depth": 1, "embed_dim": 48, "num_heads": 3},
)
RESNET = TimmEncoderConfig(
    name="resnet10t", weights="random", input_size=64, model_args={"num_classes": 10}
)


def _images(side: int = 64) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, side, side, generator=random) * 2 - 1


@pytest.mark.parametrize("level", [None, 2])
def test_one_pass_gives_what_several_give(level):
    encoder, images = FeatureEncoder(replace(RESNET, feature_level=level)), _images()
    found = encoder.outputs(images)
    assert torch.equal(found.pooled, encoder.pooled(images))
    assert found.logits is not None
    assert found.dense is not None
    assert torch.equal(found.logits, encoder.logits(images))
    side = 64 // encoder.stride
    assert torch.equal(found.dense, encoder.features(images, (side, side)))


def test_the_pooled_feature_of_dinov2_is_its_class_token():
    encoder, images = FeatureEncoder(DINOV2), _images()
    found = encoder.outputs(images)
    with torch.no_grad():
        tokens = encoder.model.forward_features(encoder.prepare(images, (224, 224)))
    assert torch.equal(found.pooled, tokens[:, 0])
    assert found.dense is not None
    assert torch.equal(found.dense[:, :, 2, 3], tokens[:, 1 + 2 * 16 + 3])
    assert found.logits is None


def test_the_body_follows_the_callers_autocast_and_the_head_stays_float32():
    encoder, images = FeatureEncoder(RESNET), _images()
    exact = encoder.outputs(images)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder.outputs(images)
    assert rough.logits is not None
    assert rough.pooled.dtype == rough.logits.dtype == torch.float32
    assert not torch.equal(rough.pooled, exact.pooled)
    torch.testing.assert_close(rough.pooled, exact.pooled, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("side", [64, 300])
def test_the_bicubic_resize_is_pillows(side):
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, side, side), generator=random)
    picture = Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy())
    expected = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC))
    prepared = FeatureEncoder(DINOV2).prepare((pixels / 127.5 - 1)[None], (224, 224))[0]
    mean, deviation = (torch.tensor(v)[:, None, None] for v in STATISTICS["imagenet"])
    found = (255 * (prepared * deviation + mean)).round().permute(1, 2, 0).numpy()
    difference = np.abs(found - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


def test_positions_are_resized_as_dinov2_does_and_survive_storage():
    torch.manual_seed(0)
    encoder = FeatureEncoder(DINOV2)
    grid, cells = 518 // 14, 16
    torch.manual_seed(0)
    plain = FeatureEncoder(
        TimmEncoderConfig(name=DINOV2.name, weights="random", model_args=DINOV2.model_args)
    )
    learnt = plain.model.pos_embed.detach()
    table = learnt[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        table, scale_factor=(cells + 0.1) / math.sqrt(grid * grid), mode="bicubic"
    )
    found = encoder.model.pos_embed
    assert found.shape == (1, 1 + cells * cells, 48)
    assert torch.equal(found[:, 0], learnt[:, 0])
    torch.testing.assert_close(found[0, 1:].T, expected.flatten(2)[0])
    FeatureEncoder(DINOV2).model.load_state_dict(encoder.model.state_dict())


def test_networks_without_such_positions_are_refused():
    with pytest.raises(ValueError, match="position_resize"):
        FeatureEncoder(
            TimmEncoderConfig(name="resnet10t", weights="random", position_resize="dinov2")
        )
    with pytest.raises(ValueError, match="class token"):
        FeatureEncoder(
            TimmEncoderConfig(
                name="vit_small_patch14_reg4_dinov2.lvd142m",
                weights="random",
                position_resize="dinov2",
                model_args={"depth": 1},
            )
        )
