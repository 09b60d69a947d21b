"""The range of every numeric field of a trial, of resources and of a search.

Classes refuse what contradicts their other fields. Here stands what no run can mean: beyond these
a number overflows, is not kept by the table, or gives numbers that look fine and say nothing.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.schema.keys import PLAIN, fields_of
from harness.schema.reading import ConfigError

Range = tuple[float, float]

COUNT: Range = (0, 10**12)
SMALL: Range = (0, 10**6)
# Building a network of more takes minutes.
BLOCKS: Range = (0, 256)
SIGNED: Range = (-1e6, 1e6)
SHARE: Range = (0.0, 1.0)
# Float32 ends at 3e38; a rate that lets a training diverge is a request like others.
WEIGHT: Range = (0.0, 1e30)
FACTOR: Range = (0.0, 1e4)
# Digits or columns of a row, which is looked for.
ANY: Range = (-float("inf"), float("inf"))
# The table keeps 64 bits with a sign, and t-SNE's generator takes 32 without.
SEED: Range = (0, 2**63 - 1)
SEED_32: Range = (0, 2**32 - 1)

_NAMES: tuple[tuple[Range, str], ...] = (
    (
        COUNT,
        "steps warmup_steps constant_steps start_step discriminator_start uniform_after_step "
        "step snapshots restart_after num_images num_train_images num_eval_images "
        "num_reconstructions "
        "num_reference num_reference_features num_statistics num_vectors block_images "
        "window_images "
        "bad_images_limit checkpoint_every_s",
    ),
    (
        SMALL,
        "resolution max_shift num_classes latent_dim downsample base_width width_multipliers "
        "attention_resolutions in_channels norm_groups input_size feature_dim "
        "stride width num_heads hidden_multiple hidden_width block patch_size "
        "levels space_to_depth side semantic_dim pixel_dim pixel_width scales "
        "codebook_size batch_size num_steps top_k decode_workers cpus gpus workers "
        "num_trials num_startup parallel batches_ahead memory_limit_gib row_cache_gib memory_gib "
        "attention_placed_for validation_batches slices profile",
    ),
    (BLOCKS, "num_blocks num_layers depth sampling_seeds"),
    (
        SHARE,
        "dropout class_dropout plain_share min_scale betas decay warmup_start final_share top_p "
        "max_unreadable interval_start interval_end condition_dropout scale_drop",
    ),
    (
        WEIGHT,
        "weight probability vf_weight cos_weight distmat_weight kl_weight mse_weight cosine_weight "
        "l1_weight commitment_weight velocity_direction_weight group_weights weight_decay "
        "learning_rate max_grad_norm pixel_distance_weight semantic_weight",
    ),
    (FACTOR, "scale guidance_scale timestep_shift shift condition_noise temperature gamma"),
    (SIGNED, "feature_level cos_margin distmat_margin offset image_range atol rtol"),
    (SEED, "seed seeds"),
    (ANY, "RowWeights.row at_most at_least Pruning.arguments"),
    (SEED_32, "LatentDiagnostics.seed SamplerChoice.seed"),
)
RANGES: Mapping[str, Range] = {name: each for each, names in _NAMES for name in names.split()}
"""Field, or `Class.field` -> the least and the largest number that it may hold."""


@cache
def range_of(kind: type, name: str) -> Range | None:
    """The range of a field of a class; None where it has none, as fields of plug-ins."""
    if kind.__module__.partition(".")[0] not in ("harness", "models"):
        return None
    return RANGES.get(f"{kind.__name__}.{name}", RANGES.get(name))


def check_ranges(config: Any, path: str = "") -> None:
    """Refuse numbers out of their ranges and texts that no file can have as its name: a ConfigError
    with the key path of the first."""
    kind = type(config)
    for name, *_ in fields_of(kind) or ():
        value = getattr(config, name)
        if value is None or value is True or value is False:
            continue
        place = f"{path}.{name}" if path else name
        leaves = [(place, value)] if type(value) in PLAIN else _leaves(place, value)
        for place, each in leaves:
            if isinstance(each, str):
                if name != "args":
                    _check_text(each, place)
            elif isinstance(each, int | float):
                allowed = range_of(kind, name)
                if allowed and not isinstance(each, bool) and not allowed[0] <= each <= allowed[1]:
                    least, most = allowed
                    raise ConfigError(
                        f"must lie in {least:g} to {most:g}, but got {each}; use a number in it",
                        path=place,
                    )
            elif fields_of(type(each)) is not None:
                check_ranges(each, place)


def _check_text(text: str, path: str) -> None:
    if text.isascii() and len(text) <= 255 and "~" not in text:
        return  # As nearly all are.
    if len(os.fsencode(text)) > 4000 or any(len(os.fsencode(p)) > 255 for p in text.split("/")):
        must = "must be at most 255 bytes long between slashes, as names of files are"
        raise ConfigError(f"{must}, but is {text[:40]!r}...; shorten it", path=path)
    try:
        # `~somebody` is of no user here.
        Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{error} Write the whole path, not {text!r}", path=path) from error


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(f"{path}.{name}", each)
    elif isinstance(value, tuple | list):
        for number, each in enumerate(value):
            yield from _leaves(f"{path}.{number}", each)
    else:
        yield path, value
