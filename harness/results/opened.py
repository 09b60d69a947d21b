"""Results in Python: the table, and each row's tokenizer, generator, samples, pictures and curves.

    from harness import open_results

    results = open_results("results/frontier")
    row = results.row(latent_dim=8, alignment="vf", generator_size="nano", seed=0)
    tokenizer = row.tokenizer()
    images = tokenizer.decode(tokenizer.encode(images))
    samples = row.generator().sample([0, 1, 2], seed=1)

Images are RGB, uint8 in 0..255 and of shape [b, 3, h, w] everywhere. Whoever needs the floats in
[-1, 1] that networks take and give, for gradients, finds the network in `Tokenizer.network`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from analysis.table.reading import load_table
from harness.config.resources import Resources
from harness.data.pixel_range import to_model_range, to_uint8
from harness.data.sample_archive import SampleArchive
from harness.machine.random_streams import generator_for
from harness.schema.imported import import_plugins
from harness.schema.reading import nearest, read_yaml
from harness.stages.generation import GenerationStage, Sampling, load_sampling
from harness.stages.tokenizer.stage import load_tokenizer
from harness.storage.artifacts import Artifact, Store, store_of
from models.tokenizer import TokenizerNetwork

Device = str | torch.device | None
"""Where networks compute; None is a GPU where there is one."""


def open_results(folder: Path | str, *, store: Path | str | None = None) -> "Results":
    """Open the results folder of a sweep or search.

    Plug-ins that its sweep file names are imported first.

    Args:
        store: Folder of the artifacts; needed where it was moved.

    Raises:
        ValueError: There is no table, or a plug-in cannot be imported.
    """
    folder = Path(folder)
    table = load_table(folder)
    for file in (folder / "sweep.yaml", folder / "tune.yaml"):
        if file.is_file():
            import_plugins(read_yaml(file), folder)
    return Results(folder=folder, table=table, store=Store(store_of(folder, store)))


@final
@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of a sweep or search."""

    folder: Path
    """The results folder."""
    table: pd.DataFrame
    """A line for each trial, snapshot and guidance setting. `harness/results/columns.py` says what
    the columns mean; counts and numbers are floats with NaN where missing, the rest is text or
    None."""
    store: Store
    """Where the artifacts lie."""

    def rows(self, **columns: Any) -> list["Row"]:
        """The rows with these values, in the order of the table; all of them without any.

        Args:
            columns: Column -> value. Names with a dot are given as `**{"axis.seed": 0}`.

        Raises:
            ValueError: There is no such column.
        """
        matching = self.table
        for name, value in columns.items():
            if name not in self.table:
                near = nearest(name, list(map(str, self.table)))
                raise ValueError(f"there is no column {name!r}{near}; `table.columns` lists them")
            matching = matching[matching[name] == value]
        lines = matching.to_dict("records")
        return [Row(results=self, values={str(k): v for k, v in each.items()}) for each in lines]

    def row(self, **columns: Any) -> "Row":
        """The only row with these values; ValueError says what tells several apart."""
        rows = self.rows(**columns)
        if len(rows) == 1:
            return rows[0]
        raise ValueError(
            f"one row must have {columns}, but {len(rows)} of {len(self.table)} do; "
            + (f"give {_differences(rows)} too" if rows else "look into `table`")
        )


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table, and what its artifacts hold."""

    results: Results
    values: Mapping[str, Any]
    """Column -> value."""

    def tokenizer(self, device: Device = None) -> "Tokenizer":
        """Load the row's tokenizer; ValueError where the row has none, or it is not in the
        store."""
        where = _device(device)
        return Tokenizer(network=load_tokenizer(self._artifact("tokenizer"), where), device=where)

    def generator(self, device: Device = None) -> "Generator":
        """Load the row's generator: its snapshot, guidance, sampler, precision and tokenizer;
        ValueError where the row has none, or it is not in the store."""
        made, store = self._artifact("generation"), self.results.store
        config = TypeAdapter(GenerationStage).validate_python(made.record["config"])
        kinds = {"generator": "generator", "weak": "generator", "tokenizer": "tokenizer"}
        keys = {name: key for name, key in made.record["inputs"].items() if name in kinds}
        inputs = {name: store.get(kinds[name], key) for name, key in keys.items()}
        return Generator(
            sampling=load_sampling(config, inputs, _device(device), Resources()),
            num_classes=len(inputs["generator"].result["label_counts"]),
        )

    def samples(self) -> "Samples":
        """Open the samples that were kept of the row, those of its first sampling seed; ValueError
        where none were kept, or they are not in the store."""
        made = self._artifact("generation")
        path = made.path / "samples.npz"
        if not path.is_file():
            raise ValueError(
                f"samples must be kept to be opened, but {made.path} has none; run the sweep with "
                "evaluation.keep=samples, or draw some with `generator().sample`"
            )
        archive = SampleArchive(path)
        images = archive.array("arr_0").transpose(0, 3, 1, 2)
        return Samples(images=images, labels=archive.array("arr_1"))

    def pictures(self) -> Mapping[str, Image.Image]:
        """The grids of images that the run has drawn: `samples` and `reconstructions`."""
        trial, key = self.values["trial_id"], self.values["generation_key"]
        grids = self.results.folder / "grids"
        # Names of one row's samples hold its axes; its artifact has them under a plain name. Rows
        # of given images, and folders of earlier versions, name files by trials.
        artifact = self.results.store.find("generation", str(key))
        samples = [artifact.path / "samples.png"] if artifact else []
        samples.append(grids / f"{trial}_samples.png")
        reconstructions = [grids / f"{trial}_reconstructions.png"]
        if (grids / "index.csv").is_file():
            index = pd.read_csv(grids.absolute() / "index.csv", dtype=str)
            own = index[(index["trial_id"] == trial) & (index["kind"] == "reconstructions")]
            reconstructions += [self.results.folder / path for path in own["path"]]
        found: dict[str, Image.Image] = {}
        for what, paths in (("samples", samples), ("reconstructions", reconstructions)):
            for path in filter(Path.is_file, paths):
                with Image.open(path) as picture:
                    found[what] = picture.copy()
        return found

    def curves(self) -> pd.DataFrame:
        """The training curves of the row's tokenizer and generator.

        Returns:
            A line for each `stage_kind`, `step` and `term`, with its `value` and the `images` that
            were seen; none where both were given.
        """
        path = self.results.folder / "curves.parquet"
        names = ["stage_kind", "key", "label", "step", "images", "term", "value"]
        curves = pd.read_parquet(path.absolute()) if path.is_file() else pd.DataFrame(columns=names)
        keys = [self.values["tokenizer_key"], self.values["generator_key"]]
        return curves[curves["key"].isin(keys)].reset_index(drop=True)

    def _artifact(self, kind: str) -> Artifact:
        key = self.values[f"{kind}_key"]
        if not isinstance(key, str):
            raise ValueError(
                f"the row must have a {kind}, but {self.values['row_id']} has none; the rows that "
                f"have one have a `{kind}_key`"
            )
        return self.results.store.get(kind, key)


@final
@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer that takes images and gives images."""

    network: TokenizerNetwork
    """The network, frozen. Its `encode` and `decode` take and give floats in [-1, 1]."""
    device: torch.device
    """Where it computes, and where what it gives lies."""

    @torch.no_grad()
    def encode(self, images: Tensor | np.ndarray) -> Tensor:
        """The most likely latents of images, or their indices, as the decoder wants them.

        Args:
            images: uint8 of shape [b, 3, h, w], a tensor on any device or an array; one batch.

        Raises:
            ValueError: They are something else.
        """
        pixels = _tensor(images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 of shape [b, 3, h, w], but got {pixels.dtype} of "
                f"{list(pixels.shape)}; `network.encode` takes floats in [-1, 1]"
            )
        return self.network.encode(to_model_range(pixels.to(self.device))).mode()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> UInt8[Tensor, "b 3 h w"]:
        """Images of latents, rounded as the metrics round them."""
        return to_uint8(self.network.decode(latents.to(self.device)))


@final
@dataclass(frozen=True, kw_only=True)
class Generator:
    """A generator that draws images as the row's protocol says."""

    sampling: Sampling
    """Snapshot, guidance, sampler, precision and decoder; `sampling.model` is the network."""
    num_classes: int
    """Classes are 0 to this number, exclusive."""

    @torch.no_grad()
    def sample(
        self, labels: Sequence[int] | Tensor | np.ndarray, seed: float = 0
    ) -> UInt8[Tensor, "n 3 h w"]:
        """Draw one image a label.

        Given the row's `evaluation_seed` and all labels that its evaluation asked for, these are
        the samples that were scored, up to the rounding of another device.

        Raises:
            ValueError: There is no label, or a label is no class.
        """
        classes = _tensor(labels)
        known = torch.arange(self.num_classes, device=classes.device)
        if classes.ndim != 1 or not len(classes) or not torch.isin(classes, known).all():
            raise ValueError(
                f"labels must be classes from 0 to {self.num_classes - 1}, one or more, but got "
                f"{classes.tolist()}"
            )
        # The stage's batches and streams, so that its samples can be drawn again.
        device, size = self.sampling.device, self.sampling.config.batch_size
        drawn = [
            # Counts are floats in the table, and 0.0 is another seed than 0.
            self.sampling.images(batch, generator_for(int(seed), "noise", number, device=device))
            for number, batch in enumerate(classes.long().to(device).split(size))
        ]
        return torch.cat(drawn)


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples that were kept; they stay on the disk until they are looked at."""

    images: UInt8[np.ndarray, "n 3 h w"]
    """Images."""
    labels: Int64[np.ndarray, " n"]
    """Class asked for of each."""


def _differences(rows: Sequence[Row]) -> str:
    """The columns that tell rows apart, with their values."""
    axes = [name for name in rows[0].values if name.startswith("axis.")]
    told = {
        name: list(dict.fromkeys(row.values[name] for row in rows))
        for name in ("generator_images", "guidance", *axes)
    }
    apart = [f"{name} ({', '.join(map(str, each))})" for name, each in told.items() if each[1:]]
    return ", ".join(apart) or "row_id"


def _tensor(values: Any) -> Tensor:
    # A copy, because arrays that are mapped from a file cannot be written, of which PyTorch warns.
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    # Kept samples lie channels last, and that would move the rounding of convolutions.
    return tensor.contiguous()


def _device(device: Device) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
