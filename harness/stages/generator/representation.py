"""Alignment of a generator's tokens (REPA) with features of the images behind its latents."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from harness.config.data import Crop, DataConfig, published
from harness.config.generator_settings import REPAWith
from harness.data import open_dataset
from harness.data.latents.training_set import LatentSet
from harness.data.pipelines import Pipeline, mirror
from harness.data.pixel_range import to_model_range
from harness.stages.encoder.stage import load_encoder
from harness.storage.artifacts import Artifact
from models.repa import REPAHead, TokenNetwork


class TokenAlignment:
    """The projection head that learns with a generator, and the frozen features it learns.

    Args:
        data: the images that the latents were encoded from.
        crop: crop and resize before they were encoded.
        views: names of the latents' views, as in their set.
        content: hash of those images as the latents recorded it; None: they did not.

    Raises:
        ValueError: The images are others now, so that positions would name other ones.
    """

    def __init__(
        self,
        config: REPAWith,
        model: TokenNetwork,
        encoder: Artifact,
        *,
        device: torch.device,
        data: DataConfig,
        crop: Crop,
        views: Sequence[str],
        content: str | None = None,
        compiled: bool = False,
    ) -> None:
        self.config = config
        self._grid = model.grid
        self._device = device
        self._encoder = load_encoder(encoder, self._device, compiled=compiled)
        self._dataset = open_dataset(data, self._device)
        if content is not None and (now := self._dataset.content_fingerprint()) != content:
            raise ValueError(
                "images must be those that the latents were encoded from (data_content "
                f"{content}), but are others ({now}); put them and `bad_images_limit` back, or "
                "give the new ones another data.name"
            )
        self._pipeline: Pipeline | None = published(crop)
        self._is_mirrored = np.array([view == "latents_flip" for view in views])
        width, feature_dim = model.token_width, self._encoder.feature_dim
        self.head = REPAHead(config, width=width, feature_dim=feature_dim).to(self._device)

    def images(
        self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> UInt8[Tensor, "b 3 h w"]:
        """The images behind drawn latents, mirrored as `views` are; the device computes nothing."""
        pixels = self._dataset.images("train", indices, self._pipeline)
        return mirror(pixels, self._is_mirrored[views])

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b f g g"]:
        """Features of `images` on the grid of tokens."""
        seen = to_model_range(images.to(self._device, non_blocking=True))
        return self._encoder.features(seen, grid=self._grid)


class StoredAlignment:
    """As `TokenAlignment`, with features that lie beside the latents in a folder; ValueError where
    they lie on another grid than the generator's tokens."""

    def __init__(
        self, config: REPAWith, model: TokenNetwork, latents: LatentSet, device: torch.device
    ) -> None:
        self.config, self._latents, self._device = config, latents, device
        first = np.zeros(1, dtype=np.int64)
        _, feature_dim, *grid = self.images(first, first).shape
        if tuple(grid) != model.grid:
            raise ValueError(
                f"features of a folder must lie on the grid of tokens {model.grid}, but lie on "
                f"{tuple(grid)}; correct generator.patch_size, or set latents.source.features: "
                "false and encode the latents here"
            )
        self.head = REPAHead(config, width=model.token_width, feature_dim=feature_dim).to(device)

    def images(
        self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> Float[Tensor, "b f g g"]:
        """The stored features of the views that are drawn; nothing is computed on the device."""
        return self._latents.features(indices, views)

    def features(self, images: Float[Tensor, "b f g g"]) -> Float[Tensor, "b f g g"]:
        """These features on the device, in float32."""
        return images.to(self._device, non_blocking=True).float()
