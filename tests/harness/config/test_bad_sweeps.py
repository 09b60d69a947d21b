"""Sweep files that cannot be right: refused by the command, with a message that mends them."""

from pathlib import Path
from typing import Any

import pytest

from ..conftest import SMALL_VIT

pytestmark = pytest.mark.usefixtures("little_memory")

TWO_DIMS = {"grid": {"tokenizer.latent_dim": [2, 3]}}
TWO_ALIGNMENTS = {"grid": {"alignment": ["none", "vf"]}}
ONE_CLASS = {
    "kind": "image_folder", "name": "faces", "root": "faces", "resolution": 16, "labels": "none",
    "num_classes": 1, "num_train_images": 190, "num_eval_images": 90,
}  # fmt: skip

SHARDS = {**ONE_CLASS, "kind": "webdataset"}
WEAK = {"kind": "autoguidance", "scale": 2.0}


def changed(tree: Any, path: str, value: Any) -> Any:
    """The tree with one value set; `/` goes a level down, since keys may hold dots."""
    node = tree
    *parents, last = path.split("/")
    for part in parents:
        node = node[part]
    node[last] = value
    return tree


FILES = {
    "the file of a search": (
        {"search": {"seed": {"integer": [0, 3]}}},
        ["must have a `grid`, but has a `search`", "`python -m harness.tune`"],
    ),
    "unknown top-level key": (
        {"gird": {}},
        ["unknown key 'gird'", "did you mean 'grid'", "valid: compare, description"],
    ),
    "unknown key of the trial": (
        {"trial/tokeniser": {}},
        ["trial.tokeniser", "unknown key 'tokeniser'", "did you mean 'tokenizer'"],
    ),
    "a classifier of one class": (
        {"trial/data": ONE_CLASS},
        ["trial.evaluation.extractor.kind", "one class learns no features", "pretrained network"],
    ),
    "fewer images than classes": (
        {"trial/data": ONE_CLASS | {"num_classes": 197, "labels": "given"}},
        ["trial.data.num_classes", "at most the 190 images of the training split, but is 197"],
    ),
    "images smaller than a window of SSIM": (
        {"trial/data/resolution": 8},
        ["trial.data.resolution", "at least 11, the pixels of a window of SSIM, but got 8"],
    ),
    "guidance through a class that is never trained": (
        {
            "trial/generator/class_dropout": 0,
            "trial/evaluation/guidance": [{"kind": "none"}, {"kind": "cfg", "scale": 2}],
        },
        ["trial.evaluation.guidance.1.kind", "set generator.class_dropout to 0.1"],
    ),
    "unknown nested key": (
        {"trial/tokenizer/training/step": 3},
        ["trial.tokenizer.training.step", "did you mean 'steps'", "learning_rate"],
    ),
    "unknown key in a preset's block": (
        {"presets/alignment/vf/tokenizer.alignment/vf_wieght": 1, **TWO_ALIGNMENTS},
        ["trial.tokenizer.alignment.vf_wieght", "did you mean 'vf_weight'", "preset alignment: vf"],
    ),
    "unknown path in a preset": (
        {"presets/alignment/vf/tokenizer.alignmnt": {"kind": "none"}, **TWO_ALIGNMENTS},
        ["trial.tokenizer.alignmnt", "did you mean 'alignment'", "preset alignment: vf"],
    ),
    "unknown path in an axis": (
        {"grid": {"tokenizer.latent_dims": [2]}},
        ["trial.tokenizer.latent_dims", "did you mean 'latent_dim'", "grid.tokenizer.latent_dims"],
    ),
    "text for an integer": (
        {"trial/tokenizer/latent_dim": "x"},
        ["trial.tokenizer.latent_dim", "integer", "'x'"],
    ),
    "a truth value for an integer": (
        {"trial/tokenizer/latent_dim": True},
        ["trial.tokenizer.latent_dim", "integer", "True"],
    ),
    "a fraction for an integer": (
        {"trial/tokenizer/latent_dim": 1.5},
        ["trial.tokenizer.latent_dim", "integer", "1.5"],
    ),
    "text for a number": (
        {"trial/tokenizer/training/learning_rate": "fast"},
        ["trial.tokenizer.training.learning_rate", "number", "'fast'"],
    ),
    "not a number": (
        {"trial/tokenizer/training/learning_rate": float("nan")},
        ["trial.tokenizer.training.learning_rate", "JSON-like value", "nan"],
    ),
    "a wrong type in an axis": (
        {"grid": {"tokenizer.latent_dim": [2, "big"]}},
        ["trial.tokenizer.latent_dim", "integer", "'big'", "grid.tokenizer.latent_dim"],
    ),
    "a value out of its range": (
        {"trial/tokenizer/training/steps": 0},
        ["trial.tokenizer.training", "`steps` must be positive, but got 0"],
    ),
    "an absent value": (
        {"trial/tokenizer": {"latent_dim": 2}},
        ["trial.tokenizer.training", "a value is required"],
    ),
    "an empty axis": (
        {"grid": {"tokenizer.latent_dim": []}},
        ["grid.tokenizer.latent_dim", "at least one value"],
    ),
    "an axis that is no list": (
        {"grid": {"tokenizer.latent_dim": 4}},
        ["grid.tokenizer.latent_dim", "list", "4"],
    ),
    "one value twice": (
        {"grid": {"tokenizer.latent_dim": [2, 2]}},
        ["grid.tokenizer.latent_dim", "2 stands twice"],
    ),
    "one number twice": (
        {"grid": {"tokenizer.training.learning_rate": [1, 1.0]}},
        ["grid.tokenizer.training.learning_rate", "1 stands twice"],
    ),
    "two values that give one trial": (
        {
            "presets/alignment/off": {"tokenizer.alignment": {"kind": "none"}},
            "grid": {"alignment": ["none", "off"]},
        },
        ["grid", "give the same trial", "drop one value"],
    ),
    "a resolution that the tokenizer does not divide": (
        {
            "trial/tokenizer/architecture/width_multipliers": [1, 1, 1, 1, 1],
            "trial/data/resolution": 24,
        },
        ["trial.data.resolution", "multiple", "factor 16", "24", "use 16"],
    ),
    "a resolution that the data set cannot give": (
        {"trial/data/resolution": 20},
        ["trial.data", "multiple of 8", "20"],
    ),
    "a latent that the patch does not divide": (
        {"trial/generator/patch_size": 3},
        ["trial.generator.patch_size", "divide the latent side 4", "3", "use 2"],
    ),
    "an unknown preset": (
        {"grid": {"alignment": ["none", "vff"]}},
        ["grid.alignment", "unknown preset 'vff'", "did you mean 'vf'", "valid: none, vf"],
    ),
    "a block in place of a preset's name": (
        {"grid": {"alignment": [{"kind": "none"}]}},
        ["grid.alignment", "unknown preset", "valid: none, vf"],
    ),
    "an unknown axis": (
        {"grid": {"alignmet": ["none"]}},
        ["grid.alignmet", "unknown axis 'alignmet'", "did you mean 'alignment'"],
    ),
    "an exclusion that matches nothing": (
        {**TWO_DIMS, "exclude": [{"tokenizer.latent_dim": 5}]},
        ["exclude.0", "matches no combination"],
    ),
    "an exclusion of everything": (
        {**TWO_DIMS, "exclude": [{"tokenizer.latent_dim": [2, 3]}]},
        ["exclude", "every combination of the grid is excluded"],
    ),
    "an exclusion by an unknown axis": (
        {**TWO_DIMS, "exclude": [{"tokenizer.latent_dm": 2}]},
        ["exclude.0", "unknown axis", "did you mean 'tokenizer.latent_dim'"],
    ),
    "a combination that makes no trial": (
        {"grid": {"alignment": ["vf", "none"], "tokenizer.alignment.vf_weight": [1, 2]}},
        ["trial.tokenizer.alignment.vf_weight", "unknown key", "alignment none, ", "`exclude`"],
    ),
    "a condition on an axis that stands below": (
        {
            "grid": {
                "tokenizer.latent_dim": {"choices": [2], "when": {"alignment": "vf"}},
                "alignment": ["vf", "none"],
            }
        },
        ["grid.tokenizer.latent_dim.when", "stands above", "got 'alignment'"],
    ),
    "a condition on a value that the axis lacks": (
        {
            "grid": {
                "alignment": ["vf", "none"],
                "tokenizer.latent_dim": {"choices": [2], "when": {"alignment": "fv"}},
            }
        },
        ["grid.tokenizer.latent_dim.when.alignment", "['vf', 'none']", "got 'fv'"],
    ),
    "two lists of values of which one has no condition": (
        {
            "grid": {
                "alignment": ["vf", "none"],
                "tokenizer.latent_dim": [
                    {"choices": [2], "when": {"alignment": "vf"}},
                    {"choices": [3]},
                ],
            }
        },
        ["grid.tokenizer.latent_dim", "must say `when`"],
    ),
    "axes of unlike length that move together": (
        {
            "grid": {"tokenizer.latent_dim": [2, 3], "seed": [0]},
            "zip": [["tokenizer.latent_dim", "seed"]],
        },
        ["grid.seed", "as many values as tokenizer.latent_dim", "2, but has 1"],
    ),
    "an unknown axis that moves with another": (
        {**TWO_DIMS, "zip": [["tokenizer.latent_dim", "sed"]]},
        ["zip.0", "unknown axis 'sed'"],
    ),
    "an axis that moves in two lists": (
        {
            "grid": {"tokenizer.latent_dim": [2, 3], "seed": [0, 1], "alignment": ["none", "vf"]},
            "zip": [["tokenizer.latent_dim", "seed"], ["seed", "alignment"]],
        },
        ["zip.0", "'seed' stands twice"],
    ),
    "more trials than can be planned": (
        {"grid": {"seed": list(range(10_001))}},
        ["grid", "at most 10,000 trials", "seed 10,001 values"],
    ),
    "more combinations than can be looked at": (
        {
            "grid": {"seed": list(range(600)), "evaluation.seed": list(range(600))},
            "exclude": [{"seed": list(range(600))}],
        },
        ["grid", "at most 200,000 combinations", "seed 600, evaluation.seed 600"],
    ),
    "no grid in the list": ({"grid": []}, ["grid", "a list of grids", "is empty"]),
    "a wrong grid in the list": ({"grid": [{}, 3]}, ["grid", "a mapping", "3"]),
    "an unknown axis in a list of grids": (
        {"grid": [{"alignment": ["vf"]}, {"alignmet": ["none"]}]},
        ["grid.1.alignmet", "unknown axis 'alignmet'", "did you mean 'alignment'"],
    ),
    "an unknown kind": (
        {"trial/data/kind": "digit"},
        ["trial.data.kind", "must be one of", "'digit'", "did you mean 'digits'"],
    ),
    "an unknown kind of discriminator": (
        {"trial/tokenizer/loss": {"discriminator": {"kind": "patchgn"}}},
        ["trial.tokenizer.loss.discriminator.kind", "'patchgn'", "did you mean 'patchgan'"],
    ),
    "an unknown key of a discriminator": (
        {"trial/tokenizer/loss": {"discriminator": {"kind": "patchgan", "num_layer": 1}}},
        ["trial.tokenizer.loss.discriminator.num_layer", "did you mean 'num_layers'"],
    ),
    "a wrong value of a discriminator": (
        {"trial/tokenizer/loss": {"discriminator": {"kind": "patchgan", "num_layers": 0}}},
        ["trial.tokenizer.loss.discriminator", "`num_layers`", "at least 1, but got 0"],
    ),
    "an unknown kind of regulariser": (
        {"trial/tokenizer/regularizers": [{"kind": "eqv"}]},
        ["trial.tokenizer.regularizers.0.kind", "'eq', 'denoise'", "did you mean 'eq'"],
    ),
    "a regulariser without a kind": (
        {"trial/tokenizer/regularizers": [{"min_scale": 0.5}]},
        ["trial.tokenizer.regularizers.0.kind", "'eq', 'denoise'"],
    ),
    "a misspelt field of a regulariser": (
        {"trial/tokenizer/regularizers": [{"kind": "denoise", "gama": 2.0}]},
        ["trial.tokenizer.regularizers.0.gama", "did you mean 'gamma'"],
    ),
    "a wrong value of a regulariser": (
        {"trial/tokenizer/regularizers": [{"kind": "eq"}, {"kind": "denoise", "gamma": 0.0}]},
        ["trial.tokenizer.regularizers.1", "`gamma` must be positive, but got 0.0"],
    ),
    "a share of batches above 1": (
        {"trial/tokenizer/regularizers": [{"kind": "eq", "plain_share": 1.5}]},
        ["trial.tokenizer.regularizers.0", "`plain_share` must lie in [0, 1]", "got 1.5"],
    ),
    "a regulariser twice": (
        {"trial/tokenizer/regularizers": [{"kind": "eq"}, {"kind": "eq", "min_scale": 0.5}]},
        ["trial.tokenizer", "`regularizers` must hold every kind once", "got eq, eq"],
    ),
    "images too small for the discriminator once they are scaled": (
        {
            "trial/tokenizer/regularizers": [{"kind": "denoise"}, {"kind": "eq"}],
            "trial/tokenizer/loss": {"discriminator": {"kind": "patchgan", "num_layers": 1}},
        },
        ["trial.tokenizer.regularizers.1", "images of 6 pixels", "0.25 leaves 4", "use 0.375"],
    ),
    "latents too small to be scaled": (
        {
            "trial/tokenizer/regularizers": [{"kind": "eq"}],
            "trial/tokenizer/architecture/width_multipliers": [1, 1, 1, 1, 2],
            "trial/generator/patch_size": 1,
        },
        ["trial.tokenizer.regularizers.0", "0.25 of 1 latent cells leaves none", "resolution"],
    ),
    "an unknown size": (
        {"trial/generator/size": "nanno"},
        ["trial.generator", "'nanno'", "pico, nano"],
    ),
    "an unknown key of a shape": (
        {"trial/generator/size": {"depth": 1, "widht": 16, "num_heads": 2}},
        ["trial.generator.size.widht", "did you mean 'width'"],
    ),
    "an unknown choice": (
        {"trial/evaluation/label_policy": "balance"},
        ["trial.evaluation.label_policy", "'balance'", "did you mean 'balanced'"],
    ),
    "one guidance setting twice": (
        {"trial/evaluation/guidance": [{"kind": "none"}, {"kind": "none"}]},
        ["trial.evaluation", "`guidance`", "twice"],
    ),
    "more images than the evaluation split has": (
        {"trial/evaluation/num_reconstructions": 361},
        ["trial.evaluation.num_reconstructions", "360", "361"],
    ),
    "more images than the training split has": (
        {"trial/evaluation/num_reference": 1438},
        ["trial.evaluation.num_reference", "1437", "1438"],
    ),
    "a weak model with another tokenizer": (
        {
            "trial/evaluation/guidance": [
                {"kind": "autoguidance", "scale": 2.0, "weak": {"tokenizer.latent_dim": 3}}
            ]
        },
        ["trial.evaluation.guidance.weak", "same latents", "tokenizer differs", "generator.*"],
    ),
    "a weak model with an unknown key": (
        {
            "trial/evaluation/guidance": [
                {"kind": "autoguidance", "scale": 2.0, "weak": {"generator.sizes": "pico"}}
            ]
        },
        ["trial.generator.sizes", "did you mean 'size'", "the weak model"],
    ),
    "a number of sets of samples without end": (
        {"trial/evaluation/sampling_seeds": 1_000_000},
        ["trial.evaluation.sampling_seeds", "must lie in 0 to 256"],
    ),
    "more sets of samples than can be planned": (
        {"grid": {"seed": list(range(100))}, "trial/evaluation/sampling_seeds": 250},
        ["trial.evaluation", "at most 20,000 sets of samples", "asks for 25,000"],
    ),
    "a depth without end": (
        {"trial/generator/size": {"depth": 10**9, "width": 16, "num_heads": 2}},
        ["trial.generator.size.depth", "must lie in 0 to 256"],
    ),
    "a depth of a feature network without end": (
        {"trial/evaluation/extractor/model_args/depth": 10**9},
        ["trial.evaluation.extractor", "at most 256, but 'depth' is 1000000000"],
    ),
    "heads of a feature network that do not divide its width": (
        {"trial/evaluation/extractor/model_args/num_heads": 3},
        ["trial.evaluation.extractor", "dim should be divisible by num_heads"],
    ),
    "patches that do not divide a feature network's images": (
        {"trial/evaluation/extractor/model_args/patch_size": 7},
        ["trial.evaluation.extractor", "divisible by patch size (7)"],
    ),
    "an unknown activation": (
        {"trial/evaluation/extractor/model_args/act_layer": "nonesuch"},
        ["trial.evaluation.extractor", "KeyError: 'nonesuch'", "check name and arguments"],
    ),
    "a level that a feature network lacks": (
        {
            "presets/alignment/vf/tokenizer.alignment/encoder": {
                **{name: SMALL_VIT[name] for name in ("name", "model_args")},
                "kind": "timm",
                "weights": "random",
                "feature_level": 99,
            },
            **TWO_ALIGNMENTS,
        },
        ["trial.tokenizer: ", "`feature_level` must be below 1", "is 99; leave it out"],
    ),
    "a weak model without a generator": (
        {"trial/evaluation/guidance": [{**WEAK, "weak": {"generator": None}}]},
        ["trial.evaluation.guidance.weak", "must be a generator of the same kind"],
    ),
    "a protocol that is no name": (
        {"trial/evaluation/protocol": [{}]},
        ["trial.evaluation.protocol", "unknown protocol {}"],
    ),
    "a home that nobody has": (
        {"trial/data": {**ONE_CLASS, "root": "~nobody-here/x"}},
        ["trial.data.root", "Write the whole path"],
    ),
    "a folder of the hub that leads out": (
        {"trial/data": {**SHARDS, "root": "hf://datasets/../.."}},
        ["trial.data", "hf://datasets/OWNER/NAME", "'hf://datasets/../..'"],
    ),
    "a pattern of nothing": (
        {"trial/data": {**SHARDS, "train_files": [""]}},
        ["trial.data", "names or patterns such as train-*.tar, but got ''"],
    ),
    "more files than a pattern may name": (
        {"trial/data": {**SHARDS, "train_files": ["x-{0..99999999}.tar"]}},
        ["trial.data", "at most 20,000 names", "'x-{0..99999999}.tar'"],
    ),
    "a product of patterns without end": (
        {"trial/data": {**SHARDS, "train_files": ["x-{0..999}{0..999}{0..999}.tar"]}},
        ["trial.data", "at most 20,000 names"],
    ),
    "a name that no file can have": (
        {"trial/tokenizer/checkpoint": "a" * 5000},
        ["trial.tokenizer.checkpoint", "at most 255 bytes long between slashes"],
    ),
    "a path without end": ({"grid": {f"trial{'.a' * 99}": [1]}}, ["grid.trial.a", "unknown axis"]),
    "more rules than can be held to a grid": (
        {**TWO_DIMS, "exclude": [{"tokenizer.latent_dim": n} for n in range(501)]},
        ["exclude", "at most 500 rules, but are 501"],
    ),
    "a name that leaves the folder": ({"name": "../x"}, ["name", "'../x'", "names a folder"]),
    "a name that is the folder above": ({"name": ".."}, ["name", "names a folder"]),
    "several workers for a stage that shares no work": (
        {"resources": {"encoder": {"gpus": 0, "workers": 2}}},
        ["resources.encoder.workers", "must be at most 1", "but got 2; use 1"],
    ),
    "resources of an unknown stage": (
        {"resources": {"tokeniser": {"cpus": 1}}},
        ["resources.tokeniser", "did you mean 'tokenizer'"],
    ),
    "no processor": (
        {"resources": {"default": {"cpus": 0}}},
        ["resources.default", "`cpus` must be at least 1, but got 0"],
    ),
    "more GPUs than there are": (
        {"resources": {"tokenizer": {"gpus": 1.0}}},
        ["resources.tokenizer", "1 GPUs", "machine has 0"],
    ),
}


def test_a_tokenizer_is_not_graded_by_the_network_it_is_aligned_with(command, write, tree):
    tree["grid"] = {"alignment": ["vf"]}
    tree["trial"]["evaluation"]["extractor"].pop("seed")
    ended = command(write(tree))
    assert ended.code == 2
    assert "trial.evaluation.extractor" in ended.err
    assert "another network than the one the tokenizer is aligned with" in ended.err


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_right_is_refused(name, command, write, tree, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    changes, expected = FILES[name]
    for path, value in changes.items():
        changed(tree, path, value)
    path = write(tree)
    ended = command(path)
    assert ended.code == 2
    for text in ("error: ", "sweep.yaml", *expected):
        assert text in ended.err
    assert not Path("artifacts").exists() or not any(Path("artifacts").iterdir())
