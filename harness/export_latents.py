"""`python -m harness.export_latents ARTIFACT FOLDER`: latents in the published layout.

The folder holds what LightningDiT's released code trains on: `latents_rank00_shardSSS.safetensors`
of 10,000 images each, with `latents`, `latents_flip` and `labels`, and `latents_stats.pt`. Of
composite latents it also holds what Semantic-First Diffusion's code trains on: `latents_sv`,
`latents_sv_flip` and `latents_sv_stats.pt`, and with `--features ENCODER` (artifacts/encoder/<key>)
`feats_dino` and `feats_dino_flip` in fp16. Indices are written alike, as integers and without
statistics. A sweep reads it again with `latents.source: {kind: folder, path: FOLDER}`, and with
`features: true` where it holds features.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from analysis.outputs import path_at
from harness.commands.exit_codes import EXIT_DONE, exit_code
from harness.config.data import published
from harness.data import open_dataset
from harness.data.dataset import batches, take
from harness.data.latents.folder import (
    SHARD_NAME,
    STATISTICS_FILES,
    check_unchanged,
    write_statistics,
)
from harness.data.latents.shards import FEATURES, VIEWS, tensors_of_groups
from harness.data.pixel_range import to_model_range
from harness.schema.reading import ConfigError
from harness.stages.encoder.stage import load_encoder
from harness.stages.latents import LatentsStage
from harness.storage.artifacts import Artifact, Store
from models.latent import LatentLayout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 the request is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.export_latents",
        description="Write the latents of a sweep as the folder of files that LightningDiT's "
        "released code trains on.",
    )
    parser.add_argument(
        "artifact", type=path_at, help="folder of the artifact: artifacts/latents/<key>"
    )
    parser.add_argument("folder", type=path_at, help="where to write; absent or empty")
    parser.add_argument(
        "--features",
        type=path_at,
        metavar="ENCODER",
        help="also write features of the images by the network of this artifact: "
        "artifacts/encoder/<key>",
    )
    options = parser.parse_args(arguments)
    return exit_code(lambda: _export(options.artifact, options.folder, options.features))


def _export(place: Path, folder: Path, features: Path | None) -> int:
    artifact = _artifact(place, "latents", "artifact")
    encoder = None if features is None else _artifact(features, "encoder", "--features")
    count = export_latents(artifact, folder, encoder)
    print(f"{count:,} images: {folder}")
    return EXIT_DONE


def _artifact(place: Path, kind: str, path: str) -> Artifact:
    artifact = Store(place.parent.parent).find(place.parent.name, place.name)
    if artifact is None or artifact.record["kind"] != kind:
        raise ConfigError(
            f"must be the folder of a {kind} artifact, but {place} is none; `python -m "
            f"harness.run SWEEP --only {kind}` makes them, in artifacts/{kind}",
            path=path,
        )
    return artifact


def export_latents(artifact: Artifact, folder: Path, encoder: Artifact | None = None) -> int:
    """Write an artifact of the latents stage in the published layout; returns its images.

    Args:
        encoder: The network whose features of the same images are written too.

    Raises:
        ConfigError: The folder is not empty, or the artifact holds less or other than is published.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"must be absent or empty, but {folder} holds files; name another one", path="folder"
        )
    _check_published(artifact)
    names = [name for name in artifact.record["files"] if name.startswith("latents_shard")]
    check_unchanged(artifact, [artifact.path / name for name in sorted(names)])
    # Asking for a file holds it to its hash.
    paths = [artifact.file(name) for name in sorted(names)]
    features = None if encoder is None else _Features(artifact, encoder)
    folder.mkdir(parents=True, exist_ok=True)
    # Indices have no groups of channels.
    groups = artifact.result["layout"].get("groups", [])
    channels, count = [group["channels"] for group in groups], 0
    for number, path in enumerate(paths):
        with safe_open(path, framework="pt") as file:
            tensors = {"labels": file.get_tensor("labels")}
            for view in VIEWS:
                plane = file.get_tensor(view)
                parts = plane.split(channels, dim=1) if channels else [plane]
                for name, part in zip(tensors_of_groups(view, len(parts)), parts, strict=True):
                    tensors[name] = part.contiguous()
        latents = tensors[VIEWS[0]]
        if features is not None:
            tensors |= features.of(count, len(latents))
        metadata = {
            "total_size": str(len(latents)),
            "dtype": str(latents.dtype),
            "device": str(latents.device),
        }
        save_file(tensors, folder / SHARD_NAME.format(rank=0, shard=number), metadata)
        count += len(latents)
    if artifact.result["mean"] is not None:
        statistics = artifact.tensors("statistics.safetensors")
        pairs = (statistics[name].split(channels, dim=1) for name in ("mean", "std"))
        # Both are as long as the list of groups, which may be shorter than that of names.
        for name, mean, std in zip(STATISTICS_FILES, *pairs, strict=False):
            write_statistics(folder / name, mean, std)
    return count


class _Features:
    """Features of the images behind an artifact of latents, on their grid; ConfigError where nobody
    knows these images, or they are others now."""

    def __init__(self, artifact: Artifact, encoder: Artifact) -> None:
        config: LatentsStage = TypeAdapter(LatentsStage).validate_python(artifact.record["config"])
        if config.content:
            raise ConfigError(
                "must be left out for latents from a folder, whose order of images is not known",
                path="--features",
            )
        self._dataset = open_dataset(config.data)
        made_of, now = artifact.result["data_content"], self._dataset.content_fingerprint()
        if now != made_of:
            raise ConfigError(
                f"must see the images that the latents were encoded from (data_content {made_of}), "
                f"but they are others ({now}); put them back, or encode again",
                path="--features",
            )
        count = config.latents.num_images or self._dataset.num_images("train")
        self._chosen = take(self._dataset, "train", count)
        self._config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = load_encoder(encoder, self._device)

    def of(self, first: int, count: int) -> dict[str, Tensor]:
        """Both views of the images behind some rows of the latents."""
        latents, found = self._config.latents, {name: [] for name in FEATURES.values()}
        layout = self._config.layout
        assert isinstance(layout, LatentLayout)
        for local in batches(count, latents.batch_size):
            pixels = self._dataset.images(
                "train", self._chosen[first + local], published(latents.crop)
            )
            images = to_model_range(pixels.to(self._device))
            for view, name in FEATURES.items():
                seen = images.flip(-1) if view == "latents_flip" else images
                features = self._network.features(seen, (layout.height, layout.width))
                found[name].append(features.half().cpu())
        return {name: torch.cat(parts).contiguous() for name, parts in found.items()}


def _check_published(artifact: Artifact) -> None:
    posterior = artifact.record["config"]["latents"]["posterior"]
    if posterior == "moments":
        raise ConfigError(
            "the published layout must hold one latent an image, but this artifact holds whole "
            "posteriors; encode with latents.posterior: sample",
            path="artifact",
        )
    if list(artifact.result["views"]) != list(VIEWS):
        raise ConfigError(
            "the published layout must hold every image mirrored too, but this artifact has "
            f"{', '.join(artifact.result['views'])} only; encode with latents.flip: true",
            path="artifact",
        )


if __name__ == "__main__":
    raise SystemExit(main())
