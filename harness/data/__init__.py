"""Image data sets behind one interface, their published crops, and reproducible batches."""

from collections.abc import Callable
from typing import Annotated, Any

import torch

from harness.data.dataset import DatasetConfig, ImageDataset
from harness.data.digits import DigitsConfig, DigitsDataset
from harness.data.photographs.dataset import PhotographDataset
from harness.data.photographs.image_folder import ImageFolderConfig
from harness.data.photographs.parquet import ParquetConfig
from harness.data.photographs.webdataset import WebDatasetConfig
from harness.data.python_dataset import PythonDataset, PythonDatasetConfig
from harness.schema.kinds import Kinds

DATASETS: Kinds[Callable[[Any, torch.device | None], ImageDataset]] = Kinds(
    "data set", DatasetConfig
)
"""Every kind of data set, and what opens it."""
DATASETS.add("digits", DigitsConfig, lambda config, _device: DigitsDataset(config))
DATASETS.add("image_folder", ImageFolderConfig, PhotographDataset)
DATASETS.add("parquet", ParquetConfig, PhotographDataset)
DATASETS.add("webdataset", WebDatasetConfig, PhotographDataset)
DATASETS.add("python", PythonDatasetConfig, lambda config, _device: PythonDataset(config))

DataConfig = Annotated[DatasetConfig, DATASETS]
"""A data set of any kind."""


def open_dataset(config: DatasetConfig, device: torch.device | None = None) -> ImageDataset:
    """Open the data set that a configuration describes.

    Args:
        config: Where it is and how it is read.
        device: Where images come to lie that the configuration keeps on the device; absent: this
            machine's memory.

    Raises:
        ValueError: Its files are absent or not as declared.
    """
    return DATASETS.of(config)(config, device)
