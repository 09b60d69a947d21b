"""`python -m harness.export_latents ARTIFACT FOLDER`: latents in the published layout.

The folder holds what LightningDiT's released code trains on: `latents_rank00_shardSSS.safetensors`
of 10,000 images each, with `latents`, `latents_flip` and `labels`, and `latents_stats.pt`. Of
composite latents it also holds what Semantic-First Diffusion's code trains on, but for features:
`latents_sv`, `latents_sv_flip` and `latents_sv_stats.pt`. Indices are written alike, as integers
and without statistics. A sweep reads it again with
`latents.source: {kind: folder, path: FOLDER}`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from harness.commands.exit_codes import EXIT_DONE, exit_code
from harness.data.latents.folder import (
    SHARD_NAME,
    STATISTICS_FILES,
    check_unchanged,
    write_statistics,
)
from harness.data.latents.shards import VIEWS, tensors_of_groups
from harness.schema.reading import ConfigError
from harness.storage.artifacts import Artifact, Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 the request is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.export_latents",
        description="Write the latents of a sweep as the folder of files that LightningDiT's "
        "released code trains on.",
    )
    parser.add_argument(
        "artifact", type=Path, help="folder of the artifact: artifacts/latents/<key>"
    )
    parser.add_argument("folder", type=Path, help="where to write; absent or empty")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _export(options.artifact, options.folder))


def _export(place: Path, folder: Path) -> int:
    artifact = Store(place.parent.parent).find(place.parent.name, place.name)
    if artifact is None or artifact.record["kind"] != "latents":
        raise ConfigError(
            f"must be the folder of a latents artifact, but {place} is none; `python -m "
            "harness.run SWEEP --only latents` makes them, in artifacts/latents",
            path="artifact",
        )
    count = export_latents(artifact, folder)
    print(f"{count:,} images: {folder}")
    return EXIT_DONE


def export_latents(artifact: Artifact, folder: Path) -> int:
    """Write an artifact of the latents stage in the published layout; returns its images.

    Raises:
        ConfigError: The folder is not empty, or the artifact holds less or other than is published.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"must be absent or empty, but {folder} holds files; name another one", path="folder"
        )
    _check_published(artifact)
    paths = sorted(artifact.path.glob("latents_shard*.safetensors"))
    check_unchanged(artifact, paths)
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
