"""Image data sets behind one interface, their published crops, and reproducible batches."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch

from harness.data.dataset import SPLITS, DatasetConfig, ImageDataset
from harness.data.digits import DigitsConfig, DigitsDataset
from harness.data.photographs.dataset import PhotographDataset
from harness.data.photographs.image_folder import ImageFolderConfig
from harness.data.photographs.parquet import ParquetConfig
from harness.data.photographs.webdataset import WebDatasetConfig
from harness.data.python_dataset import PythonDataset, PythonDatasetConfig
from harness.schema.imported import code_of
from harness.schema.keys import content_hash
from harness.schema.kinds import Kinds
from harness.schema.reading import ConfigError

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


def open_dataset(config: DatasetConfig, device: torch.device | None = None) -> ImageDataset:
    """Open the data set that a configuration describes; images that it keeps on the device come to
    lie on `device`, or in this machine's memory where none is given."""
    return DATASETS.of(config)(config, device)


_tried: set[str] = set()


def try_out(config: DatasetConfig) -> None:
    """Open a data set of the user's own code and read of it, to tell early what is wrong."""
    DATASETS.of(config)
    code = code_of(config)
    name = content_hash([config, code])
    if not code or name in _tried or config.missing():
        return
    try:
        dataset, side = open_dataset(config), config.resolution
        for split, count in zip(
            SPLITS, (config.num_train_images, config.num_eval_images), strict=True
        ):
            labels = dataset.labels(split)
            if (dataset.num_images(split), len(labels)) != (count, count):
                raise ValueError(
                    f"{split} must hold {count} images and as many labels, but holds "
                    f"{dataset.num_images(split)} and {len(labels)}; correct what is declared"
                )
            if not np.isin(labels, np.arange(config.num_classes)).all():
                raise ValueError(
                    f"labels must lie in 0..{config.num_classes - 1}, but {split} has "
                    f"{labels.min()}..{labels.max()}; correct num_classes or the data set"
                )
            images = dataset.images(split, np.array([0, count - 1]))
            if (images.dtype, images.shape) != (torch.uint8, (2, 3, side, side)):
                raise ValueError(
                    f"two images must be 8-bit [2, 3, {side}, {side}], but {split} gives "
                    f"{images.dtype} {list(images.shape)}; correct resolution or the data set"
                )
    except ConfigError:
        raise
    except Exception as error:
        # Whatever it is: the code is the user's, and so is the error.
        said = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"{said}{error}") from error
    _tried.add(name)
