"""Pretrained autoencoders as a tokenizer of sweeps: rows, scaling, files, errors."""

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import diffusers as diffusers_config
from harness.config.resources import Resources
from harness.execution.stage_run import run_stage
from harness.plan.cost import estimate
from harness.plan.plan import make_plan
from harness.schema.reading import ConfigError
from harness.stages.generator.stage import GeneratorStage
from harness.stages.tokenizer.stage import load_tokenizer
from harness.storage.artifacts import Store

diffusers = pytest.importorskip("diffusers", reason="the optional package diffusers is absent")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FACTOR, SHIFT = 0.25, 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random f4d2 AutoencoderKL as diffusers saves it."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=2,
        scaling_factor=FACTOR,
        shift_factor=SHIFT,
    )
    network.save_pretrained(tmp_path / "small-vae")
    return tmp_path / "small-vae"


@pytest.fixture
def take(tree: Any, folder: Path) -> Callable[..., Any]:
    """The small sweep with the saved autoencoder as its tokenizer."""

    def taken(**changes: Any) -> Any:
        tree["trial"]["tokenizer"] = {
            "kind": "diffusers",
            "source": str(folder),
            "latent_dim": 2,
            "downsample": 4,
            **changes,
        }
        return tree

    return taken


def table() -> list[dict[str, str]]:
    return list(csv.DictReader(Path("results/small/table.csv").read_text().splitlines()))


def stage_of(sweep, kind: str):
    return next(stage for stage in make_plan(sweep).stages if stage.kind == kind)


def keys(sweep) -> dict[str, str]:
    return {stage.kind: stage.key for stage in make_plan(sweep).stages}


def run_tokenizer(sweep, store: Path):
    return run_stage(stage_of(sweep, "tokenizer"), store, Resources(), 0.0)


def test_a_pretrained_autoencoder_gives_rows_beside_trained_ones(command, write, take, folder):
    tree = take()
    trained = tree["trial"].pop("tokenizer")
    tree["presets"]["tokenizer_kind"] = {
        "own": {"tokenizer": trained},
        "measured": {"tokenizer": {**trained, "scaling": "statistics"}},
        "trained": {
            "tokenizer": {
                "latent_dim": 2,
                "architecture": {"base_width": 8, "width_multipliers": [1, 1, 1], "num_blocks": 1}
                | {"attention_resolutions": [], "norm_groups": 4},
                "training": {"steps": 2, "batch_size": 8, "learning_rate": 1e-3},
            }
        },
    }
    tree["grid"] = {"tokenizer_kind": ["own", "measured", "trained"]}
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    own, measured, trained = table()
    assert [row["tokenizer"] for row in (own, measured, trained)] == [
        "diffusers small-vae",
        "diffusers small-vae, measured scaling",
        "va_vae",
    ]
    for row in (own, measured):
        assert (row["status"], row["provenance"]) == ("done", "reproduced")
        assert float(row["rfid"]) > 0
        assert float(row["gfid"]) > 0
        assert (row["downsample"], row["latent_dim"], row["alignment"]) == ("4", "2", "none")
        assert (row["tokenizer_s"], row["tokenizer_images"], row["train_flops"]) == ("", "", "")
    # Scaling is of the latents: the tokenizer and its reconstructions are made once.
    assert own["tokenizer_key"] == measured["tokenizer_key"]
    assert own["rfid"] == measured["rfid"]
    assert own["generator_key"] != measured["generator_key"]
    store = Store(Path("artifacts"))
    generator = store.get("generator", own["generator_key"])
    assert generator.result["mean"] == [SHIFT] * 2
    assert generator.result["std"] == [1 / FACTOR] * 2
    assert store.get("generator", measured["generator_key"]).result["std"] != [1 / FACTOR] * 2
    artifact = store.get("tokenizer", own["tokenizer_key"])
    assert artifact.result["checkpoint"].startswith("small-vae, sha256 ")
    shutil.rmtree(folder)
    copy = load_tokenizer(artifact, torch.device("cpu"))
    assert copy.encode(torch.zeros(1, 3, 16, 16)).mode().shape == (1, 2, 4, 4)


def test_the_copy_gives_the_outputs_of_diffusers(load, take, folder, tmp_path):
    take()
    assert run_tokenizer(load(), tmp_path / "store").status == "done"
    artifact = Store(tmp_path / "store").get("tokenizer", stage_of(load(), "tokenizer").key)
    copy = load_tokenizer(artifact, torch.device("cpu"))
    network = diffusers.AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = network.encode(images).latent_dist.mode()
        assert torch.equal(copy.encode(images).mode(), latents)
        assert torch.equal(copy.decode(latents), network.decode(latents).sample)


def test_a_deterministic_autoencoder_gives_a_row(command, write, take, tmp_path):
    torch.manual_seed(0)
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "block_types": "ResBlock",
            "block_out_channels": (8, 8, 16),
            "layers_per_block": (1, 1, 1),
            "qkv_multiscales": ((), (), ()),
        }.items()
    }
    diffusers.AutoencoderDC(latent_channels=4, **sizes).save_pretrained(tmp_path / "dc")
    ended = command(write(take(source=str(tmp_path / "dc"), latent_dim=4)))
    assert ended.code == 0, ended.err
    (row,) = table()
    assert row["status"] == "done"
    assert float(row["gfid"]) > 0


def test_the_content_of_the_files_enters_the_key_and_their_place_does_not(load, take, folder):
    take()
    here = keys(load())
    moved = folder.with_name("moved") / "vae"
    shutil.copytree(folder, moved)
    take(source=str(moved.parent), subfolder="vae")
    assert keys(load()) == here
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"scaling_factor": 1.0}))
    there = keys(load())
    assert {kind for kind in here if here[kind] == there[kind]} == {"encoder", "reference"}


def test_seed_and_scaling_move_the_latents_and_not_the_tokenizer(load, take):
    take()
    before = keys(load())
    for setting in ("tokenizer.seed=5", "tokenizer.scaling=statistics"):
        after = keys(load(setting))
        same = {kind for kind in before if before[kind] == after[kind]}
        assert same == {"encoder", "reference", "tokenizer", "reconstruction"}


def test_a_hub_name_is_found_in_the_cache_at_its_commit(load, take, folder, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    repository = cache / "models--someone--small-vae"
    shutil.copytree(folder, repository / "snapshots" / COMMIT / "vae")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    take()
    local = keys(load())
    take(source="someone/small-vae", subfolder="vae")
    assert keys(load()) == local
    assert run_tokenizer(load(), tmp_path / "store").status == "done"
    artifact = Store(tmp_path / "store").get("tokenizer", local["tokenizer"])
    assert artifact.result["checkpoint"].startswith(f"someone/small-vae at {COMMIT}, sha256 ")
    take(source="someone/small-vae", subfolder="vae", revision="other")
    assert "absent" in stage_of(load(), "tokenizer").config.checkpoint


@pytest.mark.parametrize(
    ("place", "texts"),
    [
        (
            {"source": "someone/absent", "subfolder": "vae", "revision": "v2"},
            ["hf download someone/absent vae/config.json", "--revision v2", "tokenizer.source"],
        ),
        ({"source": "./absent"}, ["absent", "config.json", "tokenizer.source"]),
        ({"subfolder": "vae"}, ["small-vae/vae", "tokenizer.subfolder"]),
    ],
)
def test_absent_files_are_named_before_anything_starts(command, write, take, place, texts):
    path = write(take(**place))
    ended = command(path)
    assert ended.code == 2
    for text in texts:
        assert text in ended.err
    assert not Path("artifacts").exists()
    planned = command(path, "--dry-run", "--json")
    assert any("not in the estimate" in text for text in planned.json["missing"])


def test_an_absent_package_is_named_before_anything_starts(command, write, take, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        diffusers_config, "find_spec", lambda name: None if name == "diffusers" else find_spec(name)
    )
    ended = command(write(take()))
    assert ended.code == 2
    assert "pip install diffusers" in ended.err


def test_two_absent_sources_are_two_trials(load, take):
    take(source="someone/absent")
    sweep = load("grid.tokenizer.source=[someone/absent, someone/other]")
    assert len({point.trial_id for point in sweep.points}) == 2


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        ({"latent_dim": 4}, "`latent_dim` must be that of the pretrained autoencoder, 2, but got"),
        ({"downsample": 2}, "`downsample` must be that of the pretrained autoencoder, 4, but got"),
        ({"class_name": "AutoencoderDC"}, "but got AutoencoderDC for AutoencoderKL"),
    ],
)
def test_a_wrong_declaration_fails_the_stage_with_the_right_value(
    load, take, tmp_path, declared, error
):
    take(**declared)
    outcome = run_tokenizer(load(), tmp_path / "store")
    assert outcome.status == "failed"
    assert error in outcome.error


def test_files_that_changed_since_the_plan_are_refused(load, take, folder, tmp_path):
    take()
    sweep = load()
    stage = stage_of(sweep, "tokenizer")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": 1.0}))
    outcome = run_stage(stage, tmp_path / "store", Resources(), 0.0)
    assert outcome.status == "failed"
    assert "must be those that were planned with" in outcome.error


def test_a_file_without_scaling_needs_measured_statistics(command, write, take, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": None}))
    path = write(take())
    assert command(path).code != 0
    (row,) = table()
    assert "set tokenizer.scaling: statistics" in row["error"]
    assert command(path, "--set", "tokenizer.scaling=statistics").code == 0


def test_encoding_and_decoding_are_in_the_estimate_and_training_is_not(load, take):
    take()
    for precision in ("fp32", "bf16"):
        stages = {s.kind: s for s in make_plan(load(f"tokenizer.precision={precision}")).stages}
        assert estimate(stages["tokenizer"]).flops == 0.0
        assert estimate(stages["tokenizer"]).parameters > 1000
        assert estimate(stages["latents"]).flops > 0.0
        generator = stages["generator"].config
        assert isinstance(generator, GeneratorStage)
        assert generator.layout.shape == (2, 4, 4)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"kind": "difusers"}, ["tokenizer.kind", "'difusers'", "did you mean 'diffusers'"]),
        ({"scalin": "own"}, ["unknown key 'scalin'", "did you mean 'scaling'", "subfolder"]),
        ({"training": {}}, ["unknown key 'training'", "valid: class_name, downsample"]),
        ({"scaling": "none"}, ["tokenizer.scaling", "'own', 'statistics'", "'none'"]),
        ({"latent_dim": 0}, ["tokenizer", "at least 1", "got 0"]),
        ({"source": ""}, ["tokenizer", "`source`", "empty"]),
        ({"class_name": "UNet2DModel"}, ["`class_name` must be one of AutoencoderKL", "UNet2D"]),
        ({"downsample": 32}, ["data.resolution", "factor 32"]),
    ],
)
def test_bad_values_are_named(load, take, changes, texts):
    take(**changes)
    with pytest.raises(ConfigError) as error:
        load()
    for text in texts:
        assert text in str(error.value)


def test_keys_of_the_other_kind_are_still_named(load):
    with pytest.raises(ConfigError, match=r"unknown key 'sourc' \(valid: alignment, architecture"):
        load("tokenizer.sourc=here")


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _weights(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(change(file.read_bytes()))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a factor that is text": (lambda f: _config(f, scaling_factor="0.5"), "must be positive"),
    "means of another latent": (
        lambda f: _config(f, latents_mean=[0.0] * 5, latents_std=[1.0] * 5), "one a channel (2)"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "must be a JSON file"),
    "a pointer": (lambda f: _weights(f, lambda _: b"version https://git-lfs\n"), "git lfs pull"),
    "a cut file": (lambda f: _weights(f, lambda whole: whole[:-99]), "fetch or copy it again"),
    "another network": (
        lambda f: _config(f, block_out_channels=[8, 8, 24]), "must fit its config.json exactly"),
    "another latent": (lambda f: _config(f, latent_channels=3), ""),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_autoencoder_is_told_by_the_dry_run(command, write, take, folder, damage):
    spoil, says = DAMAGES[damage]
    spoil(folder)
    ended = command(write(take()), "--dry-run")
    assert ended.code == 2
    assert "trial.tokenizer.source" in ended.err
    assert says in ended.err


def test_a_factor_that_is_the_classs_default_is_said(command, write, take, folder):
    config = json.loads((folder / "config.json").read_text())
    del config["scaling_factor"]
    (folder / "config.json").write_text(json.dumps(config))
    ended = command(write(take()), "--dry-run")
    assert ended.code == 0
    assert "names no scaling_factor: the class's default 0.18215 is used" in ended.err


def test_weights_that_are_not_finite_are_refused_by_name(load, take, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_in.bias"][1] = float("inf")
    save_file(tensors, file)
    take()
    outcome = run_tokenizer(load(), tmp_path / "store")
    assert outcome.status == "failed"
    assert "must be finite" in outcome.error
    assert "decoder.conv_in.bias (1 of " in outcome.error
