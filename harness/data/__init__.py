"""Image data sets behind one interface, their published crops, and reproducible batches."""

from harness.data.dataset import ImageDataset
from harness.data.digits import DigitsConfig, DigitsDataset
from harness.data.image_folder import ImageFolderConfig, ImageFolderDataset
from harness.data.parquet import ParquetConfig, ParquetDataset

DatasetConfig = DigitsConfig | ImageFolderConfig | ParquetConfig
"""Every kind of data set, told apart by `kind`."""


def open_dataset(config: DatasetConfig) -> ImageDataset:
    """Open the data set that a configuration describes.

    Raises:
        ValueError: Its files are absent or not as declared.
    """
    if isinstance(config, DigitsConfig):
        return DigitsDataset(config)
    if isinstance(config, ImageFolderConfig):
        return ImageFolderDataset(config)
    return ParquetDataset(config)
