"""Requests that cannot be right: refused by the command itself, with a message that mends them."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from ..conftest import SMALL_VIT
from .test_bad_sweeps import ONE_CLASS

pytestmark = pytest.mark.usefixtures("little_memory")

TEXTS = {
    "a repeated key": ("name: a\nname: b\n", ["'name' stands twice", "line 2"]),
    "text that is no YAML": ("name: [a\n", ["not valid YAML"]),
    "a key that is no text": ("name: a\n{b: c}: d\n", ["line 2"]),
    "a list": ("- name: a\n", ["must be a mapping, but got list"]),
    "nothing": ("", ["must be a mapping, but got NoneType"]),
    "a tag that builds an object": ("name: !!python/object:os.system {}\n", ["not valid YAML"]),
    "a trial that is a list": ("name: a\ntrial: [1]\n", ["trial", "must be a mapping", "[1]"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_no_sweep_is_refused(name, command, write):
    text, expected = TEXTS[name]
    ended = command(write(text))
    assert ended.code == 2
    for part in ("sweep.yaml", *expected):
        assert part in ended.err


SETTINGS = {
    "no equals sign": ("seed", ["--set", "PATH=VALUE", "'seed'"]),
    "an empty path": ("=3", ["--set", "PATH=VALUE"]),
    "an empty part": ("tokenizer..steps=3", ["--set", "PATH=VALUE"]),
    "an unknown head": ("tokenzer.latent_dim=3", ["tokenzer", "did you mean 'tokenizer'"]),
    "an unknown leaf": (
        "tokenizer.training.step=3",
        ["trial.tokenizer.training.step", "did you mean 'steps'"],
    ),
    "a path through a value": (
        "generator.patch_size.side=3",
        ["generator.patch_size", "must be a block"],
    ),
    "a field that an axis sets": (
        "tokenizer.latent_dim=3",
        ["tokenizer.latent_dim", "set by an axis", "grid.tokenizer.latent_dim"],
    ),
    "a field that an axis sets, by its long path": (
        "trial.tokenizer.latent_dim=3",
        ["tokenizer.latent_dim", "set by an axis", "grid.tokenizer.latent_dim"],
    ),
    "a field inside a block that a preset sets": (
        "tokenizer.alignment.vf_weight=3",
        ["tokenizer.alignment.vf_weight", "set by an axis", "grid.alignment"],
    ),
    "a value that is no YAML": ("seed=]", ["--set seed", "not valid YAML"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_cannot_be_right_is_refused(name, command, write, tree):
    setting, expected = SETTINGS[name]
    tree["grid"] = {"tokenizer.latent_dim": [2, 3], "alignment": ["none", "vf"]}
    ended = command(write(tree), "--set", setting)
    assert ended.code == 2
    for text in ("sweep.yaml", *expected):
        assert text in ended.err


@pytest.mark.parametrize("block", ["trial", "presets", "grid"])
@pytest.mark.parametrize("setting", ["seed=1", "grid.tokenizer.latent_dim=[2]", "trial.seed=1"])
def test_a_setting_on_a_file_whose_blocks_are_none_is_refused(command, write, tree, block, setting):
    ended = command(write({**tree, block: 3}), "--set", setting)
    assert ended.code == 2
    assert block in ended.err


def test_a_file_that_is_absent_is_refused_with_the_folder_and_what_is_near(command, tmp_path):
    (tmp_path / "absence.yaml").touch()
    for path in (tmp_path / "absent.yaml", tmp_path):
        ended = command(path)
        assert ended.code == 2
        (line,) = ended.err.splitlines()
        assert line.startswith(f"error: {path}: cannot be read (")
        assert f"the working directory is {Path.cwd()}); give a sweep file, such as " in line
    near = command(tmp_path / "absent.yaml").err
    assert near.endswith(f"such as {tmp_path / 'absence.yaml'}\n")
    assert command(Path("sweeps/frontier.yml")).err.endswith("sweeps/frontier.yaml\n")


def test_a_file_that_is_no_text_is_refused(command, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in command(path).err


def test_an_address_without_ray_is_refused(command, write, tree):
    ended = command(write(tree), "--address", "auto")
    assert ended.code == 2
    assert "--executor ray" in ended.err


@pytest.mark.parametrize("arguments", [("--only", "tokeniser"), ("--executor", "slurm")])
def test_an_unknown_choice_on_the_command_line_is_refused(command, write, tree, arguments):
    ended = command(write(tree), *arguments)
    assert ended.code == 2
    assert "invalid choice" in ended.err


@pytest.mark.parametrize("option", ["--results", "--store"])
def test_a_folder_that_cannot_be_written_is_refused(command, write, tree, option):
    Path("blocked").write_text("a file in the folder's place")
    ended = command(write(tree), option, "blocked")
    assert ended.code == 2
    assert "blocked" in ended.err
    assert "must be a folder that can be written" in ended.err


def test_a_broken_artifact_is_set_aside_and_made_anew(command, write, tree):
    path = write(tree)
    (stage, *_) = command(path, "--dry-run", "--json").json["stages"]
    folder = Path("artifacts") / stage["kind"] / stage["key"]
    folder.mkdir(parents=True)
    (folder / "artifact.json").write_text('{"kind":')
    ended = command(path)
    assert ended.code == 0
    assert f"{folder.resolve()} was damaged" in ended.err
    assert len(list(folder.parent.glob(f"{stage['key']}.damaged-*"))) == 1


def test_missing_images_and_weights_are_all_named_before_anything_starts(command, write, tree):
    tree["trial"]["data"] = {
        "kind": "image_folder",
        "name": "photographs",
        "root": "nowhere",
        "resolution": 16,
        "num_classes": 2,
        "num_train_images": 10,
        "num_eval_images": 10,
    }
    tree["trial"]["evaluation"]["extractor"] = {"kind": "inception", "weights": "absent.pth"}
    tree["trial"]["evaluation"] |= {"num_reference": 10, "num_reconstructions": 10}
    said = []
    for more in ([], ["--dry-run"]):
        ended = command(write(tree), *more)
        assert ended.code == 2
        # A slow machine says that it is planning.
        said.append(ended.err.partition("error: ")[2])
        for text in ("nothing was started", "nowhere/train", "nowhere/val", "data.root"):
            assert text in ended.err
        assert "absent.pth" in ended.err
    # In the same words; a plan for a machine that is not here asks for nothing of this one.
    assert said[0] == said[1]
    ended = command(write(tree), "--dry-run", "--assume-device", "H100")
    assert (ended.code, "nowhere/train" in ended.out) == (0, True)
    assert not any(Path().iterdir())


def test_numbers_without_a_point_are_numbers(command, write, tree):
    text = yaml.safe_dump(tree).replace("learning_rate: 0.001", "learning_rate: 1e-3")
    assert "1e-3" in text
    assert command(write(text), "--dry-run").code == 0


IMPOSSIBLE = {
    "{cpus: 1000}": [".cpus: ", "cores of this machine"],
    "{gpus: 1}": [".gpus: ", "this machine has 0"],
    "{accelerator_type: H100}": [".accelerator_type: ", "this machine has none"],
}


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("asked", IMPOSSIBLE)
def test_what_this_machine_lacks_is_refused_and_a_finished_sweep_stays_finished(
    command, write, tree, monkeypatch, asked, more
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    results = Path("results/small")
    results.mkdir(parents=True)
    (results / "sweep.yaml").write_text("what a finished sweep has left")
    ended = command(write(tree), f"--set=resources.default={asked}", *more)
    assert ended.code == 2
    for text in IMPOSSIBLE[asked]:
        assert text in ended.err
    assert [path.name for path in results.iterdir()] == ["sweep.yaml"]
    assert (results / "sweep.yaml").read_text() == "what a finished sweep has left"


KINDS_ALONE = {
    "data.kind=image_folder": "--set 'data={kind: image_folder, ...}'",
    "trial.evaluation.extractor.kind=inception": "--set 'evaluation.extractor={kind: inception, ",
    "generator.kind=lowdiff": "--set 'generator={kind: lowdiff, ...}'",
}


@pytest.mark.parametrize("setting", KINDS_ALONE)
def test_a_kind_that_is_changed_without_its_block_says_what_to_type(command, write, tree, setting):
    ended = command(write(tree), "--dry-run", "--set", setting)
    assert ended.code == 2
    assert KINDS_ALONE[setting] in ended.err


@pytest.mark.parametrize(("setting", "typed"), [
    ("grid.generator.patch_size=1,2", "write [1,2]"),
    ("tokenizer.architecture.width_multipliers=2", "write [2]"),
    ("evaluation.guidance={kind: none}", 'write [{"kind": "none"}]'),
])  # fmt: skip
def test_a_list_without_its_brackets_says_what_to_type(command, write, tree, setting, typed):
    said = command(write(tree), "--dry-run", "--set", setting).err
    assert typed in said
    mended = f"{setting.partition('=')[0]}={typed.removeprefix('write ')}"
    again = command(write(tree), "--dry-run", "--set", mended).err
    assert "should be a list" not in again
    assert "must be a list" not in again


def test_names_of_presets_are_text_wherever_they_stand(command, write, tree):
    names = {"1": 1e-3, "true": 2e-3, "null": 3e-3, "010": 4e-3}
    rate = "tokenizer.training.learning_rate"
    tree["presets"]["rate"] = {name: {rate: value} for name, value in names.items()}
    tree["grid"] = {"rate": ["NAMES"], "seed": {"choices": [0], "when": {"rate": "ONE"}}}
    tree["exclude"], tree["compare"] = [{"rate": "NULL"}], {"rate": "TRUE"}
    text = yaml.safe_dump(tree, sort_keys=False).replace(
        "NAMES", "1\n  - true\n  - null\n  - '010'"
    )
    for word in ("ONE", "TRUE", "NULL"):
        text = text.replace(word, {"ONE": "1"}.get(word, word.lower()))
    ended = command(write(text), "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert [row["axes"]["rate"] for row in ended.json["rows"]] == ["1", "true", "010"]


def test_a_weak_model_that_is_the_model_itself_is_refused(command, write, tree):
    weak = {"kind": "autoguidance", "scale": 2.0, "weak": {"generator.patch_size": 2}}
    tree["trial"]["evaluation"]["guidance"] = [weak]
    ended = command(write(tree), "--dry-run")
    assert ended.code == 2
    assert "trial.evaluation.guidance.weak" in ended.err
    assert "must be another than the one that it guides" in ended.err


@pytest.mark.parametrize("asked", ["inf", "1e400", "1e300", "nan", "0", "0m"])
def test_a_time_that_no_clock_can_wait_for_is_refused(command, write, tree, asked):
    ended = command(write(tree), "--dry-run", "--time-limit", asked)
    assert ended.code == 2
    assert "above 0 and below 1e9" in ended.err


@pytest.mark.parametrize("folder", ["a/" + "x" * 256, "b" * 5000])
def test_a_folder_that_no_disk_can_name_is_refused(command, write, tree, folder):
    for option in ("--store", "--results"):
        ended = command(write(tree), "--dry-run", option, folder)
        assert ended.code == 2
        assert "File name too long" in ended.err


def test_a_file_in_the_place_of_a_folder_of_results_is_told_before_anything_starts(
    command, write, tree
):
    Path("results/small").mkdir(parents=True)
    Path("results/small/grids").write_text("")
    for more in ([], ["--dry-run"]):
        ended = command(write(tree), *more)
        assert ended.code == 2
        assert "results/small/grids must be a folder" in ended.err
    assert not Path("artifacts").exists()


def test_counts_and_classes_that_do_not_hold_are_told_by_the_dry_run(command, write, tree):
    for split, count in (("train", 6), ("val", 4)):
        for name in ("ant", "bee"):
            folder = Path("insects", split, name)
            folder.mkdir(parents=True)
            for number in range(count // 2):
                Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
    data = {**ONE_CLASS, "labels": "given", "root": "insects", "num_classes": 2}
    tree["trial"]["evaluation"] |= {"num_reference": 4, "num_reconstructions": 4, "num_images": 4}
    for wrong, says in (
        ({"num_train_images": 7, "num_eval_images": 4}, "must hold 7 images"),
        ({"num_train_images": 6, "num_eval_images": 5}, "must hold 5 images"),
        ({"num_train_images": 6, "num_eval_images": 4, "num_classes": 3}, "3 class folders"),
    ):
        tree["trial"]["data"] = data | wrong
        said = [command(write(tree), *more) for more in ([], ["--dry-run"])]
        assert {ended.code for ended in said} == {2}
        assert said[0].err == said[1].err
        assert says in said[0].err
        assert not Path("artifacts").exists()


@pytest.mark.parametrize("place", ["evaluation.extractor", "tokenizer.alignment.encoder"])
def test_weights_of_another_feature_network_are_refused_by_the_dry_run(command, write, tree, place):
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, "other.pt")
    encoder = {"kind": "timm", "weights": "other.pt", "name": SMALL_VIT["name"],
               "model_args": SMALL_VIT["model_args"]}  # fmt: skip
    tree["presets"]["alignment"]["vf"]["tokenizer.alignment"]["encoder"] = encoder
    if place == "evaluation.extractor":
        tree["trial"]["evaluation"]["extractor"] = encoder
    else:
        tree["grid"] = {"alignment": ["vf"]}
    ended = command(write(tree), "--dry-run")
    assert ended.code == 2
    assert f"trial.{place}.weights" in ended.err
    assert "blocks.0.norm1.weight" in ended.err
    Path("other.pt").write_text("<!DOCTYPE html>")
    again = command(write(tree), "--dry-run")
    assert again.code == 2
    assert "other.pt could not be read" in again.err
    assert "weights_only" not in again.err


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(("setting", "says"), [
    ("evaluation.extractor={kind: inception, weights: w.pth}", "the sha256 of 'w.pth' must begin"),
    ("evaluation.perceptual={kind: lpips, backbone_weights: w.pth}", "git lfs pull"),
    ("evaluation.perceptual={kind: lpips, backbone_weights: w.pth, head_weights: w.pth}",
     "git lfs pull"),
])  # fmt: skip
def test_a_pointer_in_place_of_any_weights_is_told_by_the_dry_run(
    command, write, tree, setting, says
):
    Path("w.pth").write_text(POINTER)
    ended = command(write(tree), "--dry-run", "--set", setting)
    assert ended.code == 2
    assert says in ended.err


def test_an_axis_that_loses_the_value_it_is_compared_with_says_what_to_type(command, write, tree):
    tree["grid"], tree["compare"] = {"alignment": ["none", "vf"]}, {"alignment": "none"}
    for setting in ("grid.alignment=[vf]", "grid={}"):
        ended = command(write(tree), "--dry-run", "--set", setting)
        assert ended.code == 2
        assert "; --set 'compare={}' compares" in ended.err
        again = command(write(tree), "--dry-run", "--set", setting, "--set", "compare={}")
        assert again.code == 0, again.err


def test_names_of_presets_are_those_that_are_written(command, write, tree):
    names = ("1e3", "010", "0x1", "+5")
    tree["presets"]["p"] = {
        name: {"generator.class_dropout": 0.1 * (n + 1)} for n, name in enumerate(names)
    }
    tree["grid"] = {"p": ["NAMES"]}
    text = yaml.safe_dump(tree).replace("'010'", "010").replace("'0x1'", "0x1")
    ended = command(write(text.replace("NAMES", "\n  - ".join(names))), "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert [row["axes"]["p"] for row in ended.json["rows"]] == list(names)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "somewhere", "ray://127.0.0.1:9"])
def test_an_address_where_nothing_listens_is_told_by_the_dry_run(command, write, tree, address):
    asked = (write(tree), "--address", address)
    for more in ([], ["--dry-run"]):
        ended = command(*asked, *more, executor="ray")
        assert ended.code == 2
        assert f"--address: Ray at {address!r} must answer, but does not (" in ended.err
    assert not Path("artifacts").exists()
    elsewhere = ("--dry-run", "--assume-device", "H100")
    assert command(*asked, *elsewhere, executor="ray").code == 0


def test_weights_that_cannot_be_read_are_named_with_the_file(command, write, tree):
    tree["trial"]["tokenizer"]["checkpoint"] = "/proc/self/mem"
    ended = command(write(tree), "--dry-run")
    assert ended.code == 2
    assert "sweep.yaml: /proc/self/mem must be readable, but: Input/output error" in ended.err
