"""Image data sets behind one interface, their published crops, and reproducible batches."""

import torch

from harness.data.dataset import ImageDataset
from harness.data.digits import DigitsConfig, DigitsDataset
from harness.data.photographs.dataset import PhotographDataset
from harness.data.photographs.image_folder import ImageFolderConfig
from harness.data.photographs.parquet import ParquetConfig
from harness.data.photographs.webdataset import WebDatasetConfig

DatasetConfig = DigitsConfig | ImageFolderConfig | ParquetConfig | WebDatasetConfig
"""Every kind of data set, told apart by `kind`."""


def open_dataset(config: DatasetConfig, device: torch.device | None = None) -> ImageDataset:
    """Open the data set that a configuration describes.

    Args:
        config: Where it is and how it is read.
        device: Where images come to lie that the configuration keeps on the device; absent: this
            machine's memory.

    Raises:
        ValueError: Its files are absent or not as declared.
    """
    if isinstance(config, DigitsConfig):
        return DigitsDataset(config)
    return PhotographDataset(config, device)
