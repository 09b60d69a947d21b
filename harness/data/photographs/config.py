"""Configuration of photographs in files: the fields and checks that all kinds of files share.

Names, counts and splits are declared, so that a plan needs no data at hand.
"""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from PIL import Image
from pydantic import Field

from harness.data.dataset import SPLITS, Split, check_count, check_declaration
from harness.data.missing import MissingItem
from harness.data.photographs.encoded import EncodedImage, EncodedSplit, check_classes, shorten
from harness.data.photographs.hub import HubDataset
from harness.data.photographs.numbered_files import absent_of_patterns, find_files
from harness.data.pipelines import Pipeline, Workers
from harness.data.shuffle import FULL, Shuffle
from harness.schema.keys import KEY_UNLESS_DEFAULT, NO_KEY


@dataclass(frozen=True, kw_only=True)
class PhotographConfig(ABC):
    """Photographs in files. Counts are declared, so that a plan needs no data at hand."""

    # A data set's name stands for its content in keys. Keys hold neither its path nor a hash of a
    # million files, so that a plan needs no data at hand; who changes the images changes the name.
    name: str
    """Name of the data set in tables and, in place of `root`, in keys: one content, one name."""
    root: str = field(metadata=NO_KEY)
    """Folder that holds the files; `~` is the home folder. Or a data set on the Hugging Face hub,
    `hf://datasets/OWNER/NAME@REVISION`, which is looked up in the local cache and fetched only
    under `--download`."""
    train_split: str = "train"
    """Name of the training split."""
    # No key: a tokenizer does not change with the images that it is evaluated on.
    eval_split: str = field(default="test", metadata=NO_KEY)
    """Name of the evaluation split; what reads it has it in its key."""
    resolution: int = 256
    """Side of the images in pixels after resize and crop."""
    crop: Pipeline = "opencv_crop"
    """Resize and crop in training; `opencv_crop` is the published tokenizer's, at random places."""
    flip: bool = False
    """Half of the training images are mirrored left to right; the published tokenizer: none."""
    num_classes: int
    """Number of classes."""
    num_train_images: int
    """Images of the training split, those that are bad included."""
    num_eval_images: int = field(metadata=NO_KEY)
    """Images of the evaluation split; what reads them has their number in its key."""
    # These two move numbers but came after artifacts had been stored, whose keys must stay.
    shuffle: Annotated[Shuffle, Field(discriminator="kind")] = field(
        default=FULL, metadata=KEY_UNLESS_DEFAULT
    )
    """Order of an epoch; `blocks` reads large files in long runs."""
    small_images: Literal["enlarge", "bad"] = field(default="enlarge", metadata=KEY_UNLESS_DEFAULT)
    """Images with a side below `resolution`: enlarged as in the published runs, or bad."""
    exif_orientation: bool = field(default=False, metadata=KEY_UNLESS_DEFAULT)
    """Whether images are turned as their EXIF asks; the published programs do not turn them."""
    labels: Literal["given", "none"] = field(default="given", metadata=KEY_UNLESS_DEFAULT)
    """`none`: the images have no labels, or they are not read; all are of one class."""
    # No part of keys either: the name stands for the content, its bad images included.
    bad_images_limit: int = field(default=0, metadata=NO_KEY)
    """Images of a split that may be bad: unreadable, truncated, of more than 8 bits grey, or too
    small. Above 0, all are decoded once at opening, and those that are bad are left out, counted
    and named in the results; at 0 the first one that is met stops the stage."""
    keep: Literal["files", "memory", "device"] = field(default="files", metadata=NO_KEY)
    """`files`: images are decoded when asked for; `memory`: a split is decoded when first read, and
    its pixels stay in memory; `device`: and, in training, on the device, where all images are
    squares of `resolution`."""
    memory_limit_gib: float = field(default=4.0, metadata=NO_KEY)
    """Most that the pixels of one split may take under `keep: memory` or `device`, in GiB."""
    decode_workers: Workers = field(default="auto", metadata=NO_KEY)
    """Threads that decode; `auto`: one for each core. The pixels do not depend on their number."""

    def __post_init__(self) -> None:
        sizes = ("resolution", "num_classes", "num_train_images", "num_eval_images")
        names = ("name", "root", "train_split", "eval_split")
        check_declaration(self, counts=(*sizes, "memory_limit_gib"), names=names)
        if self.bad_images_limit < 0:
            raise ValueError(
                f"`bad_images_limit` must not be negative, but got {self.bad_images_limit}; use 0"
            )
        if self.labels == "none" and self.num_classes != 1:
            raise ValueError(
                f"`num_classes` must be 1 where `labels` is none, but is {self.num_classes}; set "
                "it to 1, or remove `labels`"
            )
        if self.decode_workers != "auto" and self.decode_workers < 1:
            raise ValueError(
                f"`decode_workers` must be at least 1, but got {self.decode_workers}; use auto"
            )
        if self.train_split == self.eval_split:
            raise ValueError(
                f"`eval_split` must differ from `train_split`, but both are {self.eval_split!r}; "
                "name two splits"
            )
        HubDataset.parse(self.root)

    def decode(self, image: EncodedImage) -> Image.Image:
        """Pixels of an image of this data set."""
        return image.decode(self.least_side, upright=self.exif_orientation)

    @property
    def least_side(self) -> int:
        """Shortest side that an image may have, in pixels."""
        return self.resolution if self.small_images == "bad" else 0

    def name_of(self, split: Split) -> str:
        """Name that the files use for a split."""
        return self.train_split if split == "train" else self.eval_split

    def declared_images(self, split: Split) -> int:
        """Images of a split as declared."""
        return self.num_train_images if split == "train" else self.num_eval_images

    @property
    def folder(self) -> Path:
        """The folder that `root` names: for a name on the hub, where its cache has or had it."""
        repository = HubDataset.parse(self.root)
        return repository.cached() if repository else Path(self.root).expanduser()

    def missing(self) -> list[MissingItem]:
        """Files of both splits that are absent; or where none is, what is not as declared."""
        what, place = f"the images of {self.name!r}", self.root
        try:
            if not (absent := self.absent()):
                for split, part in self.open_splits().items():
                    if len(empty := part.empty_images()) > self.bad_images_limit:
                        raise ValueError(
                            f"images must have bytes, but {len(empty):,} of {split} have none: "
                            f"{shorten(empty)}; replace them, or raise `bad_images_limit`"
                        )
            return absent
        except (ValueError, OSError) as error:
            return [MissingItem(what=what, location=place, remedy="", wrong=str(error))]

    def absent(self) -> list[MissingItem]:
        """Files of both splits that are absent; nothing is opened."""
        return [item for split in SPLITS for item in self.missing_of(split)]

    def open_splits(self) -> dict[Split, EncodedSplit]:
        """Open the files of both splits, which have the same classes."""
        splits: dict[Split, EncodedSplit] = {split: self.open_split(split) for split in SPLITS}
        check_classes(*(part.class_names for part in splits.values()))
        return splits

    @abstractmethod
    def missing_of(self, split: Split) -> list[MissingItem]:
        """Files of one split that are absent."""

    def missing_item(
        self, what: str, place: Path, remedy: str, patterns: Sequence[str]
    ) -> MissingItem:
        """Describe something absent: `remedy` says what to do where `root` is a folder, `patterns`
        what to fetch where it is a name on the hub."""
        fetch = None
        if repository := HubDataset.parse(self.root):
            remedy = f"run with --download, or: {repository.command(patterns)}"
            fetch = partial(repository.fetch, patterns)
        return MissingItem(what=what, location=str(place), remedy=remedy, fetch=fetch)

    @abstractmethod
    def open_split(self, split: Split) -> EncodedSplit:
        """Open the files of a split."""


@dataclass(frozen=True, kw_only=True)
class ShardedConfig(PhotographConfig):
    """Photographs in files of many images each, a list of files or patterns a split."""

    suffix: ClassVar[str]
    """How the names of files end unless they are given."""
    train_files: tuple[str, ...] = field(default=(), metadata=NO_KEY)
    """Files of the training split below `root`, or patterns such as `data/train-*.parquet` or
    `train-{0000..0146}.tar`, in order; empty: all files that begin with `<train_split>-`."""
    eval_files: tuple[str, ...] = field(default=(), metadata=NO_KEY)
    """Files of the evaluation split, likewise."""
    class_names: tuple[str, ...] = field(default=(), metadata=NO_KEY)
    """Names of the classes, in the order of the labels, for files that name none; labels may be
    these names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.patterns("train")) & set(self.patterns("eval")):
            raise ValueError(
                "`eval_files` must differ from `train_files`, but got "
                f"{list(self.patterns('eval'))} and {list(self.patterns('train'))}; name two splits"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"`class_names` must name all {self.num_classes} classes, but has "
                f"{len(self.class_names)}; complete it, or leave it out"
            )

    def patterns(self, split: Split) -> tuple[str, ...]:
        """Files or patterns of a split below `root`, braces spelled out."""
        given = self.train_files if split == "train" else self.eval_files
        asked = given or (f"{self.name_of(split)}-*{self.suffix}",)
        return tuple(itertools.chain.from_iterable(map(expand_braces, asked)))

    def files(self, split: Split) -> list[Path]:
        """Files of a split that are there, those of one pattern sorted by name."""
        folder = self.folder
        # Sorted, because the file system's order differs from machine to machine; two patterns may
        # find one file.
        matches = [find_files(folder, pattern) for pattern in self.patterns(split)]
        return list(dict.fromkeys(itertools.chain.from_iterable(matches)))

    def missing_of(self, split: Split) -> list[MissingItem]:
        """Names and patterns of a split that find no file; where each finds one, the first file
        `NNNNN-of-MMMMM` that is absent beside the others."""
        patterns, place = self.patterns(split), self.folder
        absent = [place / pattern for pattern in patterns if not find_files(place, pattern)]
        what = f"the {split} images of {self.name!r} (a {self.suffix} file or several)"
        if not absent and (numbered := absent_of_patterns(place, patterns)):
            absent = numbered[:1]
            if len(numbered) > 1:
                what += f", of which {len(numbered):,} are absent, the first"
        remedy = (
            "put or link the files there, or set `data.root` or "
            f"`data.{split}_files` to where they are"
        )
        return [self.missing_item(what, path, remedy, patterns) for path in absent]

    def check_images(self, split: Split, num_images: int) -> None:
        """Refuse a number of images that is not the declared one."""
        paths = self.files(split)
        place = f"the {split} split ({', '.join(str(path) for path in paths[:3])}"
        place += f" and {len(paths) - 3} further files)" if len(paths) > 3 else ")"
        declared = self.declared_images(split)
        check_count(place, f"num_{split}_images", "images", declared, num_images)


MAX_FILES = 20_000
"""Names that the braces of one pattern may stand for."""


def expand_braces(pattern: str) -> list[str]:
    """Spell out `{000..012}` and `{a,b}`: all names, in order."""
    *pieces, last = re.split(r"\{([^{}]*)\}", pattern)
    if re.search("[{}]", "".join([*pieces[::2], last])):
        raise ValueError(
            f"braces must be closed, but got {pattern!r}; write {{000..012}} or {{a,b}}"
        )
    names = [""]
    for text, inside in zip(pieces[::2], pieces[1::2], strict=True):
        choices = _choices(inside, pattern)
        if len(names) * len(choices) > MAX_FILES:
            raise ValueError(
                f"braces must stand for at most {MAX_FILES:,} names, but {pattern!r} does for "
                "more; write a pattern such as train-*.tar"
            )
        names = [f"{name}{text}{choice}" for name in names for choice in choices]
    names = [name + last for name in names]
    for name in names:
        # What `glob` cannot take; a name of nothing would find the folder itself.
        if not name.strip("./") or any("**" in p and p != "**" for p in name.split("/")):
            raise ValueError(
                f"files must be names or patterns such as train-*.tar, but got {name!r}; write one"
            )
    return names


def _choices(inside: str, pattern: str) -> Sequence[str]:
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if bounds is None and "," in inside:
        return inside.split(",")
    if bounds is None or int(bounds[1]) > int(bounds[2]):
        raise ValueError(
            f"braces must hold a rising range or a list, but got {{{inside}}} in {pattern!r}; "
            "write {000..012} or {a,b}"
        )
    numbers = range(int(bounds[1]), int(bounds[2]) + 1)[: MAX_FILES + 1]
    return [f"{n:0{len(bounds[1])}d}" for n in numbers]
