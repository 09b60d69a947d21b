"""Metrics side by side with torch-fidelity in one run, and the memory of the accumulators.

    python tests/benchmarks/bench_metrics.py [--given 5000 ...] [--images 256] [--side 64]
    python tests/benchmarks/bench_metrics.py --memory

Features are random, Inception-v3 has random weights. Time is CPU time of a process, so that a
busy machine moves it little: run with OMP_NUM_THREADS=1. A ratio is torch-fidelity's time over
ours, so more than 1 is faster. torch-fidelity runs without its cache, on the CPU, with
`save_cpu_ram`; the whole pipeline is also timed with its batch as small as ours, since that alone
speeds it up.
`--given` compares the metrics of given features, both sets of that many images; each measurement
has a process of its own, so that peak memory beyond the features is known too.
`--memory` feeds 50,000 features of width 2048 to each accumulator in a process of its own.
"""

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch_fidelity.feature_extractor_inceptionv3 as their_inception
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
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

WIDTH, NUM_CLASSES = 2048, 1000
NUM_LARGE = 50_000
THEIR_BATCH, OUR_BATCH = 64, 250


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--given", type=int, nargs="*", default=[5000], help="sizes of both sets")
    parser.add_argument("--metrics", nargs="*", default=list(GIVEN), help="of `--given`, which")
    parser.add_argument("--images", type=int, default=256, help="images of each set (Inception)")
    parser.add_argument("--side", type=int, default=64, help="their side in pixels")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        for name in ACCUMULATORS:
            in_a_process(print_peak, name)
        return
    print("seconds of torch-fidelity and of ours, and their ratio; peak memory of both in GiB")
    for num_images in arguments.given:
        for name in arguments.metrics:
            theirs, ours = (in_a_process(measure, name, who, num_images) for who in (0, 1))
            print_ratio(f"{name}, {num_images}", theirs, ours)
    if arguments.images:
        compare_pipelines(arguments.images, arguments.side)


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, whose peak memory is its alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(name: str, whose: int, num_images: int) -> tuple[float, float, float]:
    """Seconds, value and peak memory of a metric of given features beyond these."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    width = NUM_CLASSES if name == "inception score" else WIDTH
    first, second = (draw_features(num_images, seed, width) for seed in (0, 1))
    given = (first, second)
    if name == "Fréchet distance":
        given = tuple(FeatureStatistics.empty(width).update(part) for part in given)
        if whose == 0:
            given = tuple(
                dict(zip(("mu", "sigma"), map(Tensor.numpy, moments.compute()), strict=True))
                for moments in given
            )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, value = time_of(
        lambda: GIVEN[name][whose](*given), num_runs=1 if num_images > 10_000 else 2
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return seconds, value, peak / 2**20


def our_inception_score(logits: Tensor, _: Tensor) -> float:
    """Shuffled splits, fed in batches as the stages do."""
    splits = splits_shuffled(len(logits))
    score = InceptionScore.empty(10, logits.shape[1])
    for batch, of in zip(logits.split(OUR_BATCH), splits.split(OUR_BATCH), strict=True):
        score = score.update(batch, of)
    return score.compute()[0]


def their_neighbourhoods(first: Tensor, second: Tensor) -> float:
    """Precision and recall in blocks of 10,000 rows, which are the default."""
    found = prc_features_to_metric(first, second, save_cpu_ram=True, verbose=False)
    return found["precision"] + found["recall"]


GIVEN: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "Fréchet distance": (
        lambda *sets: fid_statistics_to_metric(*sets, verbose=False)["frechet_inception_distance"],
        frechet_distance,
    ),
    "inception score": (
        lambda logits, _: isc_features_to_metric(logits)["inception_score_mean"],
        our_inception_score,
    ),
    "kernel distance": (
        lambda *sets: kid_features_to_metric(*sets, verbose=False)[
            "kernel_inception_distance_mean"
        ],
        lambda *sets: kernel_distance(*sets).value,
    ),
    "precision and recall": (their_neighbourhoods, lambda *sets: sum(precision_recall(*sets))),
}
"""Metric -> torch-fidelity's number of two given sets, and ours."""


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
        our_times = {name: (*time_of(ours, 1), 0.0) for name, ours in pairs.items()}
        for batch in (THEIR_BATCH, 16):
            pipeline = time_of(lambda batch=batch: their_pipeline(first, second, weights, batch), 1)
            for name, ours in our_times.items():
                print_ratio(
                    f"rFID of {num_images} images, {name}; their batch {batch}",
                    (*pipeline, 0.0),
                    ours,
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


def time_of(function: Callable[[], float], num_runs: int = 2) -> tuple[float, float]:
    """Seconds of the best of some runs, and the number that was computed."""
    runs = []
    for _ in range(num_runs):
        started = time.process_time()
        value = function()
        runs.append((time.process_time() - started, value))
    return min(runs)


def print_ratio(
    name: str, theirs: tuple[float, float, float], ours: tuple[float, float, float]
) -> None:
    """One line: seconds, value and peak memory of both."""
    difference = abs(ours[1] - theirs[1]) / abs(theirs[1])
    print(
        f"{name:66}{theirs[0]:8.2f}{ours[0]:8.2f}{theirs[0] / ours[0]:7.2f}x"
        f"   values differ by {difference:.1e}   {theirs[2]:6.2f}{ours[2]:6.2f}",
        flush=True,
    )


def draw_features(num_images: int, seed: int, width: int = WIDTH) -> Tensor:
    """Positive features with a falling spectrum, as Inception's have; in place, to spare memory."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(num_images, width, generator=random)
    return features.mul_(torch.linspace(1.0, 0.1, width)).add_(0.05 * seed).abs_()


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
