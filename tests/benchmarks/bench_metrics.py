"""Metrics side by side with torch-fidelity in one run, and the memory of the accumulators.

    python tests/benchmarks/bench_metrics.py [--images 256] [--side 64] [--threads 1] [--large]
    python tests/benchmarks/bench_metrics.py --memory

Features are random, Inception-v3 has random weights. Time is CPU time of this process, so that a
busy machine moves it little: run with OMP_NUM_THREADS=1. A ratio is torch-fidelity's time over
ours, so more than 1 is faster. torch-fidelity runs without its cache, on the CPU, with
`save_cpu_ram`; the whole pipeline is also timed with its batch as small as ours, since that alone
speeds it up.
`--memory` feeds 50,000 features of width 2048 to each accumulator in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch_fidelity.feature_extractor_inceptionv3 as their_inception
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harness.metrics.extractors import ExtractionConfig, InceptionConfig, InceptionExtractor
from harness.metrics.extrapolation import ChunkedStatistics
from harness.metrics.feature_bank import FeatureBank
from harness.metrics.frechet import FeatureStatistics, frechet_distance
from harness.metrics.inception_score import InceptionScore, splits_shuffled
from harness.metrics.kernel_distance import kernel_distance
from harness.metrics.precision_recall import precision_recall
from harness.storage.durable import file_sha256

WIDTH = 2048
NUM_LARGE = 50_000
THEIR_BATCH = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=256, help="images of each set (Inception)")
    parser.add_argument("--side", type=int, default=64, help="their side in pixels")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--large", action="store_true", help="precision and recall of 10,000 too")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--accumulate", choices=list(ACCUMULATORS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.accumulate:
        print_peak(arguments.accumulate)
    elif arguments.memory:
        for name in ACCUMULATORS:
            subprocess.run([sys.executable, __file__, "--accumulate", name], check=True)
    else:
        print(
            f"{arguments.threads} threads; seconds of torch-fidelity and of ours, and their ratio"
        )
        compare_distances()
        compare_kernel_distances()
        for num_images in (5000, 10_000) if arguments.large else (5000,):
            compare_neighbourhoods(num_images)
        compare_pipelines(arguments.images, arguments.side)


def compare_distances() -> None:
    """Moments of given features, and the distance of given moments."""
    sets = draw_features(5000, 0), draw_features(5000, 1)
    their_moments = [fid_features_to_statistics(features) for features in sets]
    our_moments = [FeatureStatistics.empty(WIDTH).update(features) for features in sets]
    compare(
        f"moments, 5000 x {WIDTH} at once",
        lambda: float(fid_features_to_statistics(sets[0])["sigma"].trace()),
        lambda: float(FeatureStatistics.empty(WIDTH).update(sets[0]).compute()[1].trace()),
    )
    compare(
        f"Fréchet distance of moments, width {WIDTH}",
        lambda: fid_statistics_to_metric(*their_moments, verbose=False)[
            "frechet_inception_distance"
        ],
        lambda: frechet_distance(*our_moments),
    )


def compare_kernel_distances() -> None:
    """Kernel distance of given features, 100 subsets of 1000."""
    first, second = draw_features(5000, 0), draw_features(5000, 1)
    compare(
        f"kernel distance, 5000 x {WIDTH}",
        lambda: kid_features_to_metric(first, second, verbose=False)[
            "kernel_inception_distance_mean"
        ],
        lambda: kernel_distance(first, second).value,
    )


def compare_neighbourhoods(num_images: int) -> None:
    """Precision and recall, against both of torch-fidelity's ways."""
    first, second = draw_features(num_images, 0), draw_features(num_images, 1)
    for name, small in (("blocked", True), ("whole matrices", False)):
        compare(
            f"precision and recall, {num_images} x {WIDTH}, theirs {name}",
            lambda small=small: sum(
                prc_features_to_metric(first, second, save_cpu_ram=small, verbose=False).values()
            ),
            lambda: shares_and_their_mean(first, second),
        )


def shares_and_their_mean(first: Tensor, second: Tensor) -> float:
    """Sum of precision, recall and F score, as a number to compare."""
    precision, recall = precision_recall(first, second)
    return precision + recall + 2 * precision * recall / max(1e-5, precision + recall)


def compare_pipelines(num_images: int, side: int) -> None:
    """From 8-bit images to the distance: both sets, and with the original set's moments at hand."""
    random = torch.Generator().manual_seed(0)
    shape = (num_images, 3, side, side)
    first, second = (
        torch.randint(low, 256, shape, generator=random, dtype=torch.uint8) for low in (0, 60)
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = save_random_inception(Path(folder))
        config = InceptionConfig(weights=str(weights), sha256=file_sha256(weights)[:8])
        extractor = InceptionExtractor(config)
        original = moments(extractor, first)
        pairs = {
            "both sets": lambda: frechet_distance(
                moments(extractor, first), moments(extractor, second)
            ),
            "original's moments at hand": lambda: frechet_distance(
                original, moments(extractor, second)
            ),
        }
        low = InceptionExtractor(config, extraction=ExtractionConfig(precision="bfloat16"))
        pairs["both sets, bfloat16"] = lambda: frechet_distance(
            moments(low, first), moments(low, second)
        )
        our_times = {name: time_of(ours, 1) for name, ours in pairs.items()}
        for batch in (THEIR_BATCH, 16):
            theirs = time_of(lambda batch=batch: their_pipeline(first, second, weights, batch), 1)
            for name, ours in our_times.items():
                print_ratio(
                    f"rFID of {num_images} images, {name}; their batch {batch}", theirs, ours
                )


def their_pipeline(first: Tensor, second: Tensor, weights: Path, batch: int) -> float:
    """torch-fidelity's FID of two sets in memory."""
    found = calculate_metrics(
        input1=Images(first),
        input2=Images(second),
        fid=True,
        feature_extractor_weights_path=str(weights),
        batch_size=batch,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    return found["frechet_inception_distance"]


def moments(extractor: InceptionExtractor, images: Tensor) -> FeatureStatistics:
    """Moments of a set's features, in batches as the stages feed them."""
    statistics = FeatureStatistics.empty(extractor.feature_dim)
    for batch in images.split(250):
        statistics = statistics.update(extractor.features(batch))
    return statistics


def save_random_inception(folder: Path) -> Path:
    """Random weights in the layout of torch-fidelity's file."""
    torch.manual_seed(0)
    with (
        mock.patch.object(their_inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict"),
    ):
        network = their_inception.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


class Images(Dataset[Tensor]):
    """8-bit images in memory, as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


Timed = tuple[float, float]
"""Seconds and the number that was computed."""


def compare(name: str, theirs: Callable[[], float], ours: Callable[[], float]) -> None:
    """Time both and print."""
    print_ratio(name, time_of(theirs), time_of(ours))


def time_of(function: Callable[[], float], num_runs: int = 2) -> Timed:
    """The best of some runs."""
    runs = []
    for _ in range(num_runs):
        started = time.process_time()
        value = function()
        runs.append((time.process_time() - started, value))
    return min(runs)


def print_ratio(name: str, theirs: Timed, ours: Timed) -> None:
    """One line."""
    difference = abs(ours[1] - theirs[1]) / abs(theirs[1])
    print(
        f"{name:72}{theirs[0]:8.2f}{ours[0]:8.2f}{theirs[0] / ours[0]:7.2f}x"
        f"   values differ by {difference:.1e}",
        flush=True,
    )


def draw_features(num_images: int, seed: int) -> Tensor:
    """Positive features with a falling spectrum, as Inception's have."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1.0, 0.1, WIDTH)
    return (torch.randn(num_images, WIDTH, generator=random) * scale + 0.05 * seed).abs()


def accumulate_moments() -> Any:
    """Fréchet distance."""
    statistics = FeatureStatistics.empty(WIDTH)
    for batch in stream():
        statistics = statistics.update(batch)
    return statistics


def accumulate_chunks() -> Any:
    """Fréchet distance extrapolated to infinitely many samples."""
    statistics = ChunkedStatistics.empty(WIDTH, num_images=NUM_LARGE)
    for batch in stream():
        statistics = statistics.update(batch)
    return statistics.whole()


def accumulate_scores() -> Any:
    """Inception score of 1008 classes."""
    splits, seen = splits_shuffled(NUM_LARGE), 0
    score = InceptionScore.empty(10, 1008)
    for batch in stream():
        score = score.update(batch[:, :1008], splits[seen : seen + len(batch)])
        seen += len(batch)
    return score.compute()


def accumulate_bank() -> Any:
    """Features of 10,000 images."""
    bank = FeatureBank.empty(WIDTH, 10_000)
    for batch in stream():
        bank = bank.update(batch)
    return bank.compute()


def compare_banks() -> Any:
    """Precision, recall and kernel distance of 50,000 images against 10,000."""
    first, second = torch.randn(NUM_LARGE, WIDTH), torch.randn(10_000, WIDTH)
    return precision_recall(first, second), kernel_distance(first, second, num_subsets=5)


ACCUMULATORS: dict[str, Callable[[], Any]] = {
    "moments": accumulate_moments,
    "chunks": accumulate_chunks,
    "scores": accumulate_scores,
    "bank": accumulate_bank,
    "neighbours": compare_banks,
}
"""Name -> what it does, each from the first image to its result."""


def stream() -> Any:
    """Features of 50,000 images, 250 at a time."""
    random = torch.Generator().manual_seed(0)
    for _ in range(NUM_LARGE // 250):
        yield torch.randn(250, WIDTH, generator=random)


def print_peak(name: str) -> None:
    """Peak memory of this process beyond what the imports took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    ACCUMULATORS[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    what = ACCUMULATORS[name].__doc__
    print(f"{name:12}{peak / 2**20:7.2f} GiB {time.process_time() - started:7.1f} s   {what}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
