"""Photographs in tar shards as WebDataset lays them out: `<key>.jpg` beside `<key>.cls` or `.json`.

The shards are read at random through an index of their members, not as a stream: a batch stays a
function of (seed, step), so a resumed run has no reader state and shuffling has no buffer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import BinaryIO, ClassVar, Literal, final

import numpy as np
from jaxtyping import Int64

from harness.data.dataset import Split, check_count
from harness.data.photographs.config import ShardedConfig
from harness.data.photographs.encoded import EncodedImage, EncodedSplit, check_labels
from harness.data.photographs.opened_files import OpenedFiles
from harness.data.photographs.tar_index import SampleNames, index_shard, member_name
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY


@final
@dataclass(frozen=True, kw_only=True)
class WebDatasetConfig(ShardedConfig):
    """Images in tar shards."""

    suffix: ClassVar[str] = ".tar"
    kind: Literal["webdataset"] = "webdataset"
    label_extension: Literal["cls", "json"] = "cls"
    """Members that hold the label: text, or JSON; a whole number, or the name of a class."""
    label_key: str = "label"
    """Where the label stands in a `json`."""
    image_extension: str | None = field(default=None, metadata=KEY_UNLESS_DEFAULT)
    """End of the names of the members that are the images, without its first dot, e.g.
    `input.jpg`; absent: any end of an image's name that the reader knows."""
    class_names_file: str | None = field(default=None, metadata=NO_KEY)
    """Text file with the name of a class in every line, in the order of the labels; absent, and
    without `class_names`: the labels are their names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_names and self.class_names_file is not None:
            raise ValueError(
                "`class_names` and `class_names_file` must not be given together, but are; remove "
                "one"
            )

    def open_split(self, split: Split) -> "TarSplit":
        """Index the shards of a split."""
        return TarSplit(self, split)

    def names_of_classes(self) -> tuple[str, ...]:
        """Names as given, from the file, or the labels as text."""
        if self.class_names_file is None:
            return self.class_names or tuple(str(label) for label in range(self.num_classes))
        path = Path(self.class_names_file).expanduser()
        try:
            names = tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`class_names_file` must be a text file, but {str(path)!r} cannot be read "
                f"({error}); correct the path or list `class_names`"
            ) from error
        check_count(repr(str(path)), "num_classes", "class names", self.num_classes, len(names))
        return names


@final
class TarSplit(EncodedSplit):
    """Tar shards; places and labels of the images are in memory."""

    def __init__(self, config: WebDatasetConfig, split: Split) -> None:
        self._opened = OpenedFiles(config.files(split))
        class_names = config.names_of_classes()
        names = SampleNames(
            label_extension=config.label_extension if config.labels == "given" else None,
            class_names=class_names,
            label_key=config.label_key,
            image_extension=config.image_extension,
        )
        shards = [index_shard(path, names) for path in self.files]
        self._opened.check()
        for path, shard in zip(self.files, shards, strict=True):
            check_labels(shard.labels, config.num_classes, repr(str(path)), "sample")
        labels = np.concatenate([shard.labels for shard in shards])
        config.check_images(split, len(labels))
        super().__init__(class_names, labels)
        self._offsets = np.concatenate([shard.offsets for shard in shards])
        self._sizes = np.concatenate([shard.sizes for shard in shards])
        counts = [len(shard.labels) for shard in shards]
        self._shards = np.repeat(np.arange(len(shards)), counts)
        self._counts = counts

    @property
    def files(self) -> Sequence[Path]:
        """The shards."""
        return self._opened.paths

    def empty_images(self) -> list[str]:
        """Members without bytes."""
        return [image.name for image in self.read(np.flatnonzero(self._sizes == 0))]

    def check_unchanged(self) -> None:
        """Refuse shards that changed since they were indexed."""
        self._opened.check()

    def read(self, positions: Int64[np.ndarray, " b"]) -> list[EncodedImage]:
        """Encoded images of some samples, read in the order in which they lie in the shards."""
        images: dict[int, EncodedImage] = {}
        shards = self._shards[positions]
        # From front to back; a disk turns back only between batches.
        for shard in np.unique(shards).tolist():
            with self._opened.open(shard) as file:
                for position in np.unique(positions[shards == shard]).tolist():
                    images[position] = self._image(file, shard, position)
        return [images[position] for position in positions.tolist()]

    def outline(self) -> Iterator[str]:
        """Images and size of every shard."""
        for path, count in zip(self.files, self._counts, strict=True):
            yield f" {count} {path.stat().st_size}"

    def _image(self, file: BinaryIO, shard: int, position: int) -> EncodedImage:
        # The header before the image has its name.
        file.seek(int(self._offsets[position]) - BLOCKSIZE)
        data = file.read(BLOCKSIZE + int(self._sizes[position]))
        name = f"{member_name(data[:BLOCKSIZE])!r} of {str(self.files[shard])!r}"
        return EncodedImage(name=name, source=data[BLOCKSIZE:])
