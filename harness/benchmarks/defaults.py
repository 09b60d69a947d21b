"""What is benched where no sweep is named: the published system on a GPU, a small one on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch

from harness.config.trial import Trial
from harness.schema.reading import validate
from models.lightningdit import LightningDiTConfig

PUBLISHED_SIZES = ("B", "L", "XL")
SMALL_SIZES = ("pico", "nano", "mini", "tiny", "S")

_PUBLISHED: dict[str, Any] = {
    "data": {
        "kind": "image_folder",
        "name": "imagenet",
        "root": "imagenet",
        "resolution": 256,
        "num_classes": 1000,
        "num_train_images": 1_281_167,
        "num_eval_images": 50_000,
    },
    "tokenizer": {
        "latent_dim": 32,
        "architecture": {},
        "loss": {"perceptual": {"kind": "lpips"}, "discriminator": {"kind": "patchgan"}},
        "alignment": {
            "kind": "vf",
            "encoder": {"kind": "timm", "name": "vit_large_patch14_dinov2.lvd142m"},
        },
        "training": {
            "steps": 1,
            "batch_size": 32,  # of one of the published 8 GPUs
            "learning_rate": 1e-4,
            "betas": [0.5, 0.9],
        },
    },
    "generator": {
        "size": "XL",
        "training": {
            "steps": 1,
            "batch_size": 128,  # of one of 8 GPUs
            "learning_rate": 2e-4,
            "betas": [0.9, 0.95],
            "precision": "bf16",
        },
    },
    "evaluation": {
        "extractor": {"kind": "timm", "name": "inception_v3", "input_size": 299},
        "sampler": {"kind": "euler", "num_steps": 250, "timestep_shift": 0.3},
        "batch_size": 32,
    },
}

_SMALL: dict[str, Any] = {
    "data": {
        "kind": "parquet",
        "name": "cifar10",
        "root": "cifar10",
        "resolution": 32,
        "num_classes": 10,
        "num_train_images": 50_000,
        "num_eval_images": 10_000,
    },
    "tokenizer": {
        "latent_dim": 16,
        "architecture": {
            "base_width": 32,
            "width_multipliers": [1, 2, 4],
            "num_blocks": 1,
            "attention_resolutions": [8],
        },
        "loss": {"perceptual": {"kind": "lpips"}, "discriminator": {"kind": "patchgan"}},
        "alignment": {
            "kind": "vf",
            "encoder": {
                "kind": "in_domain",
                "name": "vit_tiny_patch16_224",
                "model_args": {
                    "img_size": 32,
                    "patch_size": 4,
                    "depth": 4,
                    "class_token": False,
                    "global_pool": "avg",
                },
                "training": {"steps": 1, "batch_size": 8, "learning_rate": 1e-3},
            },
        },
        "training": {"steps": 1, "batch_size": 8, "learning_rate": 2e-4, "precision": "bf16"},
    },
    "generator": {
        "size": "tiny",
        "training": {"steps": 1, "batch_size": 16, "learning_rate": 5e-4, "precision": "bf16"},
    },
    "evaluation": {
        "extractor": {
            "kind": "in_domain",
            "name": "resnet18",
            "input_size": 64,
            "training": {"steps": 1, "batch_size": 8, "learning_rate": 1e-3},
        },
        "sampler": {"kind": "euler", "num_steps": 50, "timestep_shift": 0.3},
        "batch_size": 32,
    },
}


def default_trial(device: torch.device) -> Trial:
    """f16d32 with its published losses and LightningDiT on CUDA; 32 pixels and f4d16 elsewhere."""
    return validate(Trial, _PUBLISHED if device.type == "cuda" else _SMALL)


def default_sizes(
    device: torch.device, asked: Sequence[str] | None = None
) -> dict[str, LightningDiTConfig]:
    """Generators to measure, small ones first; what a device cannot take is told in its row."""
    names = PUBLISHED_SIZES if device.type == "cuda" else (*SMALL_SIZES, *PUBLISHED_SIZES)
    names = names if asked is None else asked
    return {f"LightningDiT {name}/1": LightningDiTConfig(size=name) for name in names}
