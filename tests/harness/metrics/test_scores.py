"""All metrics of samples and of pairs: what is counted, and why a value is absent."""

import pytest
import torch
from torch import Tensor

from harness.data.pixel_range import to_model_range
from harness.metrics.extractors import EncoderExtractor
from harness.metrics.reconstruction_scores import ReconstructionScores
from harness.metrics.sample_scores import Reference, SampleScores
from models.foundation import EncoderOutputs


class _Network:
    def __init__(self, *, has_map: bool = True) -> None:
        self._has_map = has_map

    def outputs(self, images: Tensor) -> EncoderOutputs:
        dense = images[:, :, ::8, ::8] if self._has_map else None
        return EncoderOutputs(pooled=images.mean(dim=(2, 3)), dense=dense, logits=None)


def _extractor(**settings: bool) -> EncoderExtractor:
    return EncoderExtractor(
        _Network(**settings).outputs, name="tiny", identity="key", feature_dim=3
    )


def _images(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=random, dtype=torch.uint8)


def test_images_without_any_error_are_counted_where_psnr_is_infinite():
    originals = _images(6)
    made = originals.clone()
    made[2:, 0, 0, 0] ^= 8
    found = []
    for first in (0, 2):
        scores = ReconstructionScores(_extractor(), None)
        pairs = made[first:], originals[first:]
        scores.update(to_model_range(pairs[0]), *pairs)
        found.append(scores.compute())
    assert (found[0]["psnr"], found[0]["num_lossless"]) == (None, 2)
    assert found[1]["num_lossless"] == 0
    assert found[1]["psnr"] > 40


@pytest.mark.parametrize(
    ("counts", "maps", "reason"),
    [
        ((20, 20), (True, True), ""),
        ((20, 20), (False, True), "the extractor has no spatial features"),
        ((20, 20), (True, False), "the reference has no spatial statistics"),
        ((10, 20), (True, True), "samples: 10 images, but more than 12 are needed"),
        ((20, 12), (True, True), "reference: 12 images, but more than 12 are needed"),
    ],
)
def test_a_distance_of_spatial_features_is_there_or_the_reason_why_not(counts, maps, reason):
    scores = SampleScores(_extractor(has_map=maps[0]), counts[0])
    scores.update(_images(counts[0]))
    held_to = _extractor(has_map=maps[1]).extract(_images(counts[1], seed=1))
    found = scores.compute(Reference.empty(3, 20).update(held_to, torch.arange(counts[1])))
    assert found["sfid_reason"].startswith(reason)
    assert (found["sfid"] is None) == bool(found["sfid_reason"]) == bool(reason)
