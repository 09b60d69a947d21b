"""Small sweeps around kinds that a module registers, or around one object of the user's own."""

import copy
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.config.encoders import ENCODERS, EXTRACTORS
from harness.config.generator import GENERATORS
from harness.config.regularizers import REGULARIZERS
from harness.config.sweep import Sweep, load_sweep
from harness.config.tokenizer import TOKENIZERS
from harness.data import DATASETS
from harness.schema.imported import import_plugin, search_also
from harness.schema.kinds import Kinds
from harness.schema.reading import ConfigError

TRAINING = {"steps": 4, "batch_size": 8, "learning_rate": 1e-3}
TRIAL: Mapping[str, Any] = yaml.safe_load(f"""
data: {{kind: digits, resolution: 16}}
tokenizer:
  latent_dim: 4
  architecture: {{base_width: 8, width_multipliers: [1, 1, 2], num_blocks: 1,
                 attention_resolutions: [], norm_groups: 4}}
  training: {TRAINING}
latents: {{num_statistics: 50}}
generator: {{size: {{depth: 1, width: 16, num_heads: 2}}, patch_size: 1, training: {TRAINING}}}
evaluation:
  extractor: {{kind: in_domain, name: test_resnet, training: {TRAINING}}}
  num_images: 40
  num_reference: 100
  num_reconstructions: 40
""")
"""Real digits and the smallest of our own parts beside what is looked at."""
PLACES: Mapping[str, tuple[Kinds[Any], str]] = {
    "data": (DATASETS, "data"),
    "tokenizer": (TOKENIZERS, "tokenizer"),
    "regularizer": (REGULARIZERS, "tokenizer.regularizers.0"),
    "encoder": (ENCODERS, "tokenizer.alignment.encoder"),
    "generator": (GENERATORS, "generator"),
    "extractor": (EXTRACTORS, "evaluation.extractor"),
}
"""Part of a trial -> its kinds, and the key path of its block."""
PYTHON = tuple(part for part in PLACES if part != "regularizer")
"""Parts that take one object of the user's own."""


def sweeps_around(name: str, part: str | None, settings: Sequence[str]) -> Iterator[Sweep]:
    """A small sweep for each kind that a module registers, or for one object of `kind: python`.

    Args:
        name: `package.module`, or `package.module:build`.
        part: Of an object, the part of a trial that it is.

    Raises:
        ConfigError: Nothing is registered, or something is lacking that only its author knows.
    """
    search_also([Path()])
    module, colon, _ = name.partition(":")
    if colon:
        if part is None:
            raise ConfigError(
                f"must say which part of a trial {name} is ({', '.join(PYTHON)}), but is absent; "
                "give it",
                path="--as",
            )
        yield _sweep(part, {"kind": "python", "target": name}, [], settings, name)
        return
    import_plugin(module)
    found = [(each, kind) for each, (kinds, _) in PLACES.items() for kind in kinds.added_by(module)]
    if not found:
        raise ConfigError(
            f"{module} must register a kind when it is imported, but registers none; see "
            f"harness.kinds, or give {module}:NAME with --as, or a sweep file"
        )
    for each, kind in found:
        block: dict[str, Any] = {"kind": kind}
        fields = dataclasses.fields(PLACES[each][0].config_of(kind))
        # What every training needs is ours to choose; the rest only its author knows.
        if "training" in {field.name for field in fields}:
            block["training"] = TRAINING
        yield _sweep(each, block, [module], settings, name)


def _sweep(
    part: str, block: Mapping[str, Any], plugins: list[str], settings: Sequence[str], name: str
) -> Sweep:
    trial = copy.deepcopy(dict(TRIAL))
    path = PLACES[part][1]
    if part == "regularizer":
        trial["tokenizer"]["regularizers"] = [block]
    elif part == "encoder":
        trial["tokenizer"]["alignment"] = {"kind": "vf", "encoder": block}
    elif part == "extractor":
        trial["evaluation"]["extractor"] = block
    else:
        trial[part] = dict(block)
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        file = Path(folder, "check.yaml")
        tree = {"name": "check", "plugins": plugins, "trial": trial}
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        try:
            sweep = load_sweep(file, settings)
        except ConfigError as error:
            own = error.path.removeprefix("trial.")
            remedy = f"; give it with --set {own}=VALUE" if own.startswith(path) else ""
            raise ConfigError(f"{error.message}{remedy}", path=error.path, source=name) from error
    return dataclasses.replace(sweep, source=name)
