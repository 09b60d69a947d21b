"""Weights from official files in place of training: strictly loaded, and rows like others."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.plan import make_plan
from harness.stages.generator.lightningdit import build
from harness.stages.tokenizer.stage import build_tokenizer
from harness.storage.artifacts import Store
from models.checkpoint import export_generator, read_checkpoint


@pytest.fixture
def files(load, tmp_path) -> dict[str, Path]:
    """Random networks of the small sweep in the two official layouts."""
    stages = {stage.kind: stage for stage in make_plan(load()).stages}
    torch.manual_seed(0)
    tokenizer = build_tokenizer(stages["tokenizer"].config)
    generator = build(stages["generator"].config)
    extras = {"loss.logvar": torch.zeros(()), "linear_proj.weight": torch.zeros(3, 2, 1, 1)}
    paths = {"tokenizer": tmp_path / "vavae.pt", "generator": tmp_path / "lightningdit.pt"}
    torch.save({"state_dict": tokenizer.state_dict() | extras, "epoch": 1}, paths["tokenizer"])
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    export_generator(build(stages["generator"].config), paths["generator"], ema=generator)
    return paths


def settings(files: dict[str, Path]) -> list[str]:
    return [f"{kind}.checkpoint={path}" for kind, path in files.items()]


def keys(sweep) -> dict[str, str]:
    return {stage.kind: stage.key for stage in make_plan(sweep).stages}


def test_files_give_a_row_without_training(command, write, tree, files):
    tree["grid"] = {"alignment": ["vf"]}
    ended = command(write(tree), *(f"--set={setting}" for setting in settings(files)))
    assert ended.code == 0, ended.err
    (row,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert (row["status"], row["provenance"]) == ("done", "published")
    assert (row["tokenizer_s"], row["generator_s"], row["train_flops"]) == ("", "", "")
    store = Store(Path("artifacts"))
    tokenizer = store.get("tokenizer", row["tokenizer_key"])
    generator = store.get("generator", row["generator_key"])
    assert tokenizer.record["inputs"] == {}
    assert tokenizer.result["checkpoint"].startswith("vavae.pt, sha256 ")
    assert tokenizer.record["cost"]["estimated_flops"] == 0.0
    given = read_checkpoint(files["tokenizer"])["state_dict"]
    for name, tensor in tokenizer.tensors("model.safetensors").items():
        assert torch.equal(tensor, given[name])
    averaged = read_checkpoint(files["generator"])["ema"]
    for name, tensor in generator.tensors("ema-step000000004.safetensors").items():
        assert torch.equal(tensor, averaged[name])


def test_the_content_of_a_file_enters_the_key_and_its_place_does_not(load, files, tmp_path):
    here = keys(load(*settings(files)))
    moved = {kind: tmp_path / f"moved-{kind}.pt" for kind in files}
    for kind, path in files.items():
        shutil.copyfile(path, moved[kind])
    assert keys(load(*settings(moved))) == here
    torch.save({"state_dict": {}}, moved["tokenizer"])
    there = keys(load(*settings(moved)))
    assert {kind for kind in here if here[kind] != there[kind]} == {
        "tokenizer",
        "reconstruction",
        "latents",
        "generator",
        "generation",
    }
    assert keys(load()) != here


def test_trials_with_and_without_files_are_two(load, files):
    path = str(files["generator"])
    sweep = load(f"grid.generator.checkpoint=[null, {path}]")
    assert len({point.trial_id for point in sweep.points}) == 2


def test_absent_files_are_named_before_anything_starts(command, write, tree):
    tree["trial"]["tokenizer"]["checkpoint"] = "absent-vae.pt"
    tree["trial"]["generator"]["checkpoint"] = "absent-dit.pt"
    ended = command(write(tree))
    assert ended.code == 2
    for text in ("absent-vae.pt", "tokenizer.checkpoint", "absent-dit.pt", "generator.checkpoint"):
        assert text in ended.err
    assert not Path("artifacts").exists()


def test_a_file_of_another_network_fails_with_what_does_not_fit(load, files, tmp_path):
    sweep = load("tokenizer.latent_dim=3", f"tokenizer.checkpoint={files['tokenizer']}")
    stage = next(s for s in make_plan(sweep).stages if s.kind == "tokenizer")
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "failed"
    assert "quant_conv.weight (4, 4, 1, 1) for (6, 6, 1, 1)" in outcome.error


@pytest.mark.parametrize("place", ["generator", "evaluation.guidance.weak.generator"])
def test_a_generators_file_of_another_latent_is_refused_with_its_key_path(
    command, write, tree, files, place
):
    trial, given = tree["trial"], str(files["generator"])
    trial["tokenizer"]["latent_dim"] = 3  # As 48 channels where the file is of 32.
    if place == "generator":
        trial["generator"]["checkpoint"] = given
    else:
        weak = {"generator.checkpoint": given}
        trial["evaluation"]["guidance"] = [{"kind": "autoguidance", "scale": 2.0, "weak": weak}]
    ended = command(write(tree), "--dry-run")
    assert ended.code == 2
    assert f"trial.{place}.checkpoint" in ended.err
    assert "x_embedder.proj.weight (16, 2, 2, 2) for (16, 3, 2, 2)" in ended.err


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_files_that_do_not_fit_are_refused_before_anything_starts(
    command, write, tree, files, more
):
    content = torch.load(files["generator"], weights_only=True)
    torch.save({"mine": content["ema"]}, files["generator"])
    tree["trial"]["generator"] |= {"checkpoint": str(files["generator"])}
    ended = command(write(tree), *more)
    assert ended.code == 2
    assert "trial.generator.checkpoint" in ended.err
    assert "its entries with tensors are mine; name one of them as `checkpoint_entry`" in ended.err
    assert not Path("artifacts").exists()
    tree["trial"]["generator"] |= {"checkpoint_entry": "mine", "size": "nano"}
    ended = command(write(tree), *more)
    assert ended.code == 2
    assert "must match the LightningDiT, but missing: blocks" in ended.err


def test_a_file_that_changed_since_the_plan_is_refused(load, files, tmp_path):
    sweep = load(f"tokenizer.checkpoint={files['tokenizer']}")
    stage = next(s for s in make_plan(sweep).stages if s.kind == "tokenizer")
    torch.save({"state_dict": {}}, files["tokenizer"])
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "failed"
    assert "must be the file that was planned with" in outcome.error


def test_snapshots_of_a_file_are_refused(load):
    with pytest.raises(ValueError, match="holds one snapshot"):
        load("generator.checkpoint=dit.pt", "generator.snapshots=[1]")


def generator_of(sweep, store: Path):
    """A sweep's generator, trained in a store."""
    stage = next(s for s in make_plan(sweep).stages if s.kind == "generator")
    for source in (*stage.inputs["latents"].inputs.values(), stage.inputs["latents"], stage):
        outcome = run_stage(source, store, Resources(), 0.0)
        assert outcome.status in ("done", "reused"), outcome.error
    return Store(store).get("generator", stage.key)


STILL = ("generator.training.learning_rate=1e-12", "generator.training.steps=1")
FIRST = "ema-step000000001.safetensors"


def test_a_training_starts_from_the_averaged_weights_of_an_official_file(load, files, tmp_path):
    started = f"generator.initial_weights={files['generator']}"
    artifact = generator_of(load(*STILL, started), tmp_path / "store")
    given, made = read_checkpoint(files["generator"])["ema"], artifact.tensors(FIRST)
    assert artifact.result["initial_weights"]["num_loaded"] == len(given)
    assert artifact.result["initial_weights"]["left"] == {}
    assert "checkpoint" not in artifact.result
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, given[name])
    moved = generator_of(load(started), tmp_path / "store").tensors("ema-step000000004.safetensors")
    assert any(not torch.equal(moved[name], given[name]) for name in moved)


def test_a_training_starts_from_what_fits_of_a_snapshot_and_says_what_does_not(
    load, tmp_path, capsys
):
    store, given = tmp_path / "store", tmp_path / "snapshot.safetensors"
    shutil.copyfile(generator_of(load(*STILL), store).path / FIRST, given)
    deeper = (
        "generator.size={depth: 2, width: 16, num_heads: 2}",
        "generator.patch_size=1",
        f"generator.initial_weights={given}",
    )
    artifact = generator_of(load(*STILL, *deeper), store)
    said, tensors = artifact.result["initial_weights"], read_checkpoint(given)
    left = said["left"]
    assert said["file"].startswith("snapshot.safetensors, sha256 ")
    assert left["x_embedder.proj.weight"] == "(16, 2, 2, 2) in the file, (16, 2, 1, 1) here"
    assert left["blocks.1.attn.qkv.weight"] == "not in the file"
    loaded = [name for name in tensors if name not in left]
    assert said["num_loaded"] == len(loaded) > 10
    made = artifact.tensors(FIRST)
    for name in loaded:
        torch.testing.assert_close(made[name], tensors[name])
    log = capsys.readouterr().out  # Outside pytest it is the stage's log.
    assert f"initial weights: {len(loaded)} tensors of {given} loaded, {len(left)} not" in log
    assert "x_embedder.proj.weight: (16, 2, 2, 2) in the file, (16, 2, 1, 1) here" in log


def test_the_content_of_initial_weights_enters_the_generators_key_alone(load, files, tmp_path):
    start = "generator.initial_weights"
    here, moved = load(f"{start}={files['generator']}"), tmp_path / "moved.pt"
    shutil.copyfile(files["generator"], moved)
    assert keys(load(f"{start}={moved}")) == keys(here)
    anew = keys(load())
    assert {k for k in anew if keys(here)[k] != anew[k]} == {"generator", "generation"}
    assert len({p.trial_id for p in load(f"grid.{start}=[null, {moved}]").points}) == 2


def test_unusable_initial_weights_are_told(load, files, command, write, tree, tmp_path):
    path = files["generator"]
    with pytest.raises(ValueError, match="`initial_weights` must be left out beside `checkpoint`"):
        load(f"generator.checkpoint={path}", f"generator.initial_weights={path}")
    ended = command(write(tree), "--set=generator.initial_weights=absent.pt")
    assert ended.code == 2
    assert "absent.pt" in ended.err
    assert "generator.initial_weights" in ended.err
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    stages = make_plan(load(f"generator.initial_weights={tmp_path / 'other.pt'}")).stages
    generator_of(load(), tmp_path / "store")
    stage = next(s for s in stages if s.kind == "generator")
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "failed"
    assert "must hold tensors that fit the LightningDiT, but none does" in outcome.error


def tokenizer_of(sweep, store: Path):
    """A sweep's tokenizer, trained in a store."""
    stage = next(s for s in make_plan(sweep).stages if s.kind == "tokenizer")
    for source in (*stage.inputs.values(), stage):
        outcome = run_stage(source, store, Resources(), 0.0)
        assert outcome.status in ("done", "reused"), outcome.error
    return Store(store).get("tokenizer", stage.key)


def test_a_tokenizer_starts_from_what_fits_of_a_file_and_says_what_does_not(
    load, files, tmp_path, capsys
):
    still = ("tokenizer.training.learning_rate=1e-12", "tokenizer.training.steps=1")
    started = f"tokenizer.initial_weights={files['tokenizer']}"
    artifact = tokenizer_of(load(*still, started), tmp_path / "store")
    said, made = artifact.result["initial_weights"], artifact.tensors("model.safetensors")
    given = read_checkpoint(files["tokenizer"])["state_dict"]
    # What training alone needs, as the projection, is not the network's.
    assert (said["num_loaded"], said["left"]) == (len(made), {})
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, given[name])
    wider = (*still, started, "tokenizer.latent_dim=3", "grid={seed: [0]}")
    other = tokenizer_of(load(*wider), tmp_path / "store").result["initial_weights"]
    assert any(name.startswith("decoder.conv_in") or "post_quant" in name for name in other["left"])
    assert f"initial weights: {len(made)} tensors of" in capsys.readouterr().out


def test_the_content_of_a_tokenizers_start_enters_its_key(load, files, tmp_path):
    start, moved = "tokenizer.initial_weights", tmp_path / "moved.pt"
    shutil.copyfile(files["tokenizer"], moved)
    here, anew = keys(load(f"{start}={files['tokenizer']}")), keys(load())
    assert keys(load(f"{start}={moved}")) == here
    assert here["tokenizer"] != anew["tokenizer"]
    assert here["encoder"] == anew["encoder"]
    assert len({p.trial_id for p in load(f"grid.{start}=[null, {moved}]").points}) == 2


def test_an_unusable_start_of_a_tokenizer_is_told(load, files, command, write, tree):
    path = files["tokenizer"]
    with pytest.raises(ValueError, match="`initial_weights` must be left out beside `checkpoint`"):
        load(f"tokenizer.checkpoint={path}", f"tokenizer.initial_weights={path}")
    ended = command(write(tree), "--set=tokenizer.initial_weights=absent.pt")
    assert ended.code == 2
    assert "absent.pt" in ended.err
    assert "tokenizer.initial_weights" in ended.err


@pytest.mark.parametrize(("kind", "name"), [
    ("tokenizer", "decoder.conv_out.weight"), ("generator", "final_layer.linear.weight"),
])  # fmt: skip
def test_weights_that_overflow_end_as_diverged_and_not_as_black_images(
    command, write, tree, files, kind, name
):
    """Finite weights, but so large that every image is infinite."""
    content = torch.load(files[kind], weights_only=True)
    state = content["state_dict" if kind == "tokenizer" else "ema"]
    state[name] = torch.full_like(state[name], 3e38)
    torch.save(content, files[kind])
    tree["grid"] = {"alignment": ["vf"]}
    ended = command(write(tree), *(f"--set={setting}" for setting in settings(files)))
    assert ended.code == 1
    (row,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    assert row["status"] == "diverged"
    assert (row["gfid"], row["rfid"] == "") == ("", kind == "tokenizer")


def test_a_file_without_null_class_loads_where_labels_are_not_dropped(command, write, tree, files):
    """Published networks have that row only where label dropout is above 0."""
    content, name = torch.load(files["generator"], weights_only=True), "y_embedder.embedding_table"
    table = content["ema"][f"{name}.weight"]
    content["ema"][f"{name}.weight"] = table[:-1].clone()
    torch.save(content, files["generator"])
    tree["grid"] = {"alignment": ["vf"]}
    given = [f"--set={setting}" for setting in settings(files)]
    ended = command(write(tree), *given)
    assert ended.code == 2
    assert "y_embedder.embedding_table.weight (10, 16) for (11, 16)" in ended.err
    ended = command(write(tree), *given, "--set=generator.class_dropout=0")
    assert ended.code == 0, ended.err
    (row,) = csv.DictReader(Path("results/small/table.csv").read_text().splitlines())
    made = (
        Store(Path("artifacts"))
        .get("generator", row["generator_key"])
        .tensors("ema-step000000004.safetensors")
    )
    assert torch.equal(made[f"{name}.weight"][:-1], table[:-1])
    assert not made[f"{name}.weight"][-1].any()
