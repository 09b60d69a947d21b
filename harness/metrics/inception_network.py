"""torch-fidelity's FID-compatible Inception-v3, arranged for speed: one pass gives every output.

The layers are torch-fidelity's. Around them: each batch norm is folded into its convolution,
tensors lie channels-last, and the resize of TensorFlow 1 interpolates along rows before it repeats
them. Folding changes features by float32 round-off only.
"""

import io
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.checkpoint import read_checkpoint

_INPUT_SIDE = 299
_SPATIAL_CHANNELS = 7
_TO_MIXED_6C = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    "Mixed_6c",
)
_TO_MIXED_7C = ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c")


@final
class InceptionNetwork(nn.Module):
    """Inception-v3 with the weights of a file, in evaluation mode and without gradient; ValueError
    where the file holds other tensors, or something that is no tensor."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers = _load_layers(weights)
        self._to_mixed_6c = nn.Sequential(*(getattr(layers, name) for name in _TO_MIXED_6C))
        self._mixed_6d = layers.Mixed_6d
        self._to_mixed_7c = nn.Sequential(*(getattr(layers, name) for name in _TO_MIXED_7C))
        self._classes = layers.fc
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"]
    ) -> tuple[Float32[Tensor, "b 2048"], Float32[Tensor, "b 2023"], Float32[Tensor, "b 1008"]]:
        """Features, spatial features and class scores.

        The spatial ones are 7 channels of `mixed_6/conv` in the order row, column, channel, and the
        scores leave the bias out: both as ADM's evaluator does.
        """
        hidden = resize_as_tensorflow(images.to(torch.float32), _INPUT_SIDE)
        hidden = ((hidden - 128.0) / 128.0).contiguous(memory_format=torch.channels_last)
        hidden = self._to_mixed_6c(hidden)
        spatial = self._mixed_6d.branch1x1(hidden)[:, :_SPATIAL_CHANNELS]
        hidden = self._to_mixed_7c(self._mixed_6d(hidden))
        # Under autocast, means and scores are still taken in float32.
        with torch.autocast(hidden.device.type, enabled=False):
            features = hidden.float().mean(dim=(2, 3))
            scores = features @ self._classes.weight.T
        return features, spatial.float().permute(0, 2, 3, 1).flatten(1), scores


def resize_as_tensorflow(
    images: Float32[Tensor, "b c h w"], side: int
) -> Float32[Tensor, "b c side side"]:
    """TensorFlow 1's bilinear resize: pixel i comes from i h / side, without half-pixel centres."""
    for axis in (3, 2):
        size = images.shape[axis]
        place = torch.arange(side, dtype=torch.float32, device=images.device)
        place = place * torch.tensor(size / side, dtype=torch.float32)
        low = place.long()
        share = (place - low).view(-1, *[1] * (3 - axis))
        first = images.index_select(axis, low)
        second = images.index_select(axis, (low + 1).clamp_max(size - 1))
        images = first + (second - first) * share
    return images


def _load_layers(path: Path) -> Any:
    # Importing torch-fidelity takes seconds, and most sweeps never need it.
    from torch_fidelity.feature_extractor_inceptionv3 import (
        BasicConv2d,
        FeatureExtractorInceptionV3,
    )

    # torch-fidelity unpickles whatever its path holds; it is given a copy of checked tensors only.
    checked = io.BytesIO()
    torch.save(read_checkpoint(path), checked)
    checked.seek(0)
    try:
        layers = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=checked
        )
    except RuntimeError as error:
        raise ValueError(
            f"{str(path)!r} must hold torch-fidelity's Inception-v3 tensors, but does not: "
            f"{error}; give its file"
        ) from error
    for layer in list(layers.modules()):
        if isinstance(layer, BasicConv2d):
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.bn)
            layer.set_submodule("bn", nn.Identity())
    return layers
