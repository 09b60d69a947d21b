"""Requests that cannot be right: refused by the command itself, with a message that mends them."""

from pathlib import Path

import pytest
import yaml

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
    "a value that is no YAML": ("seed=[", ["--set seed", "not valid YAML"]),
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
    ended = command(write(tree))
    assert ended.code == 2
    for text in ("nothing was started", "nowhere/train", "nowhere/val", "data.root", "absent.pth"):
        assert text in ended.err
    assert not Path("artifacts").exists()
    assert command(write(tree), "--dry-run").code == 0


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
