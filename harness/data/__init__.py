"""Image data sets behind one interface, their published crops, and reproducible batches."""

from harness.data.dataset import ImageDataset
from harness.data.digits import DigitsConfig, DigitsDataset
from harness.data.image_folder import ImageFolderConfig, ImageFolderDataset


def open_dataset(config: DigitsConfig | ImageFolderConfig) -> ImageDataset:
    """Open the data set that a configuration describes.

    Raises:
        ValueError: Its files are absent or not as declared.
    """
    if isinstance(config, DigitsConfig):
        return DigitsDataset(config)
    return ImageFolderDataset(config)
