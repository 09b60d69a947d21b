"""Every metric of one extractor at random weights, against torch-fidelity's own whole pipeline."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from harness.metrics.extractors import EncoderExtractor
from harness.metrics.feature_bank import FeatureBank
from harness.metrics.frechet import FeatureStatistics, frechet_distance
from harness.metrics.inception_score import InceptionScore, splits_shuffled
from harness.metrics.kernel_distance import kernel_distance
from harness.metrics.precision_recall import precision_recall
from models.foundation import EncoderOutputs

DIM, CLASSES = 24, 5


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, DIM, 5, stride=2).requires_grad_(False)
            self.head = nn.Linear(3, CLASSES, bias=False).requires_grad_(False)

    def outputs(self, images: Tensor) -> EncoderOutputs:
        dense = self.convolution(images).relu()
        pooled = 4.0 * dense.amax(dim=(2, 3))
        logits = 100.0 * self.head(images.mean(dim=(2, 3)))
        return EncoderOutputs(pooled=pooled, dense=dense, logits=logits)


class _TheirExtractor(FeatureExtractorBase):
    """The same network behind torch-fidelity's interface."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.network = _Network()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pooled", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "pooled"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network.outputs(input.float() / 127.5 - 1.0)
        return tuple(getattr(outputs, name) for name in self.features_list)


class _Images(Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """Generated images, of less contrast, and reference images."""
    random = torch.Generator().manual_seed(0)

    def draw(count: int, contrast: float) -> Tensor:
        pixels = 127.5 + contrast * torch.randn(count, 3, 12, 12, generator=random)
        return pixels.clamp(0, 255).to(torch.uint8)

    return draw(330, 36.0), draw(250, 40.0)


@pytest.fixture(scope="module")
def theirs(sets: tuple[Tensor, Tensor]) -> dict[str, float]:
    register_feature_extractor("tiny-frontier-test", _TheirExtractor)
    return calculate_metrics(
        input1=_Images(sets[0]),
        input2=_Images(sets[1]),
        feature_extractor="tiny-frontier-test",
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        kid_subset_size=100,
        kid_subsets=20,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )


@pytest.fixture(scope="module")
def extractor() -> EncoderExtractor:
    return EncoderExtractor(_Network().outputs, name="tiny", identity="random", feature_dim=DIM)


@pytest.fixture(scope="module")
def features(sets: tuple[Tensor, Tensor], extractor: EncoderExtractor) -> list[Tensor]:
    """Both sets' features, through banks that were fed in batches."""
    banks = [FeatureBank.empty(DIM, len(images)) for images in sets]
    for number, images in enumerate(sets):
        for batch in images.split(64):
            banks[number] = banks[number].update(extractor.features(batch))
    return [bank.compute() for bank in banks]


def test_the_frechet_distance_is_theirs(features, theirs):
    first, second = (FeatureStatistics.empty(DIM).update(f) for f in features)
    expected = theirs["frechet_inception_distance"]
    assert expected > 0.1
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)


def test_the_kernel_distance_is_theirs(features, theirs):
    ours = kernel_distance(*features, num_subsets=20, subset_size=100)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)


def test_the_inception_score_is_theirs(sets, extractor, theirs):
    splits = splits_shuffled(len(sets[0]))
    score = InceptionScore.empty(10, CLASSES)
    for batch, some in zip(sets[0].split(64), splits.split(64), strict=True):
        score = score.update(extractor.extract(batch).logits, some)
    expected = (theirs["inception_score_mean"], theirs["inception_score_std"])
    assert expected[0] > 1.1
    assert score.compute() == pytest.approx(expected, rel=1e-4)


def test_precision_and_recall_are_theirs(features, theirs):
    ours = precision_recall(*features)
    assert ours == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-4)
    assert all(0.0 < share < 1.0 for share in ours)
