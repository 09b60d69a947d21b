"""Alignment of a generator's tokens (REPA) with features of the images behind its latents."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from harness.data import open_dataset
from harness.data.pipelines import Pipeline
from harness.data.pixel_range import to_model_range
from harness.stages.encoder import load_encoder
from harness.store import Artifact
from harness.trial import Crop, DataConfig, REPAWith, published
from models.lightningdit import LightningDiT
from models.repa import REPAHead


class TokenAlignment:
    """The projection head that learns with a generator, and the frozen features it learns.

    Args:
        config: tap, weight and width of the head.
        model: the generator.
        encoder: artifact of the frozen network.
        data: the images that the latents were encoded from.
        crop: crop and resize before they were encoded.
        views: names of the latents' views, as in their set.
    """

    def __init__(
        self,
        config: REPAWith,
        model: LightningDiT,
        encoder: Artifact,
        *,
        data: DataConfig,
        crop: Crop,
        views: Sequence[str],
    ) -> None:
        self.config = config
        self._grid = model.grid
        self._device = model.pos_embed.device
        self._encoder = load_encoder(encoder, self._device)
        self._dataset = open_dataset(data)
        self._pipeline: Pipeline | None = published(crop)
        self._is_mirrored = np.array([view == "latents_flip" for view in views])
        width, feature_dim = model.config.shape.width, self._encoder.feature_dim
        self.head = REPAHead(config, width=width, feature_dim=feature_dim).to(self._device)

    def features(
        self, indices: Int64[np.ndarray, " b"], views: Int64[np.ndarray, " b"]
    ) -> Float[Tensor, "b f h w"]:
        """Features on the grid of tokens.

        Args:
            indices: Positions in the training split.
            views: For each, which view of the latents is drawn; its image is mirrored likewise.
        """
        pixels = self._dataset.images("train", indices, self._pipeline)
        images = to_model_range(pixels.to(self._device, non_blocking=True))
        mirrored = torch.from_numpy(self._is_mirrored[views]).to(self._device)
        seen = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return self._encoder.features(seen, grid=self._grid)
