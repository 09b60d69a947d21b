"""timm's families of foundation models, by name: shallow and random, so that only shapes count."""

import pytest
import torch

from models.foundation import FeatureEncoder, TimmEncoderConfig

SHALLOW = {"depth": 1}
FAMILIES = {
    "vit_small_patch14_dinov2.lvd142m": 384,
    "vit_small_patch14_reg4_dinov2.lvd142m": 384,
    "vit_base_patch16_224.mae": 768,
    "vit_base_patch16_siglip_224.webli": 768,
    "vit_base_patch16_siglip_224.v2_webli": 768,
    "vit_base_patch32_clip_224.openai": 768,
    "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m": 256,
    "vit_small_patch16_dinov3.lvd1689m": 384,
    "samvit_base_patch16.sa1b": 256,
    "convnext_tiny.dinov3_lvd1689m": 768,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_foundation_model_gives_features_on_the_latents_grid_by_its_name(name):
    arguments = {"depths": (1, 1, 1, 1)} if "convnext" in name else SHALLOW
    encoder = FeatureEncoder(TimmEncoderConfig(name=name, weights="random", model_args=arguments))
    features = encoder.features(torch.zeros(1, 3, 32, 32), (3, 5))
    assert features.shape == (1, FAMILIES[name], 3, 5)
    assert encoder.feature_dim == FAMILIES[name]
    assert torch.isfinite(features).all()
