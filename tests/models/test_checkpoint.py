import pickle
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.checkpoint import (
    ENTRIES,
    export_generator,
    export_tokenizer,
    load_strictly,
    read_checkpoint,
    read_generator,
    read_tensors,
    read_tokenizer,
)
from models.latent import LatentLayout
from models.lightningdit import LightningDiT, LightningDiTConfig


def tokenizer(seed, latent_dim=4) -> Autoencoder:
    torch.manual_seed(seed)
    config = AutoencoderConfig(base_width=4, width_multipliers=(1, 2), num_blocks=1, norm_groups=2)
    return Autoencoder(config, latent_dim=latent_dim, resolution=32)


def generator(seed, channels=4) -> LightningDiT:
    torch.manual_seed(seed)
    layout = LatentLayout.single(channels, 4, 4)
    return LightningDiT(LightningDiTConfig(size="pico"), layout=layout, num_classes=10)


def assert_equal_bits(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "safetensors"])
def test_tokenizer_survives_export_and_load(tmp_path, suffix):
    original, copy = tokenizer(0), tokenizer(1)
    export_tokenizer(original, tmp_path / f"vae.{suffix}")
    load_strictly(copy, read_tokenizer(tmp_path / f"vae.{suffix}"), source="the file")
    assert_equal_bits(original, copy)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_generator_survives_export_and_load(tmp_path, suffix):
    original, averaged, copy = generator(0), generator(1), generator(2)
    export_generator(original, tmp_path / f"dit.{suffix}", ema=averaged)
    load_strictly(copy, read_generator(tmp_path / f"dit.{suffix}"), source="the file")
    assert_equal_bits(averaged, copy)


def test_exported_generator_has_the_official_layout(tmp_path):
    original, copy = generator(0), generator(1)
    export_generator(original, tmp_path / "dit.pt")
    content = read_checkpoint(tmp_path / "dit.pt")
    assert all(name.startswith("module.") for name in content["model"])
    assert set(content["ema"]) == set(original.state_dict())
    load_strictly(copy, read_generator(tmp_path / "dit.pt", entry="model"), source="the file")
    assert_equal_bits(original, copy)


def test_training_entries_of_a_tokenizer_are_dropped(tmp_path):
    original, copy = tokenizer(0), tokenizer(1)
    extras = {"loss.logvar": torch.zeros(()), "linear_proj.weight": torch.zeros(2, 4, 1, 1)}
    state = original.state_dict() | extras | {"foundation_model.model.x": torch.zeros(1)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "official.ckpt")
    load_strictly(copy, read_tokenizer(tmp_path / "official.ckpt"), source="the file")
    assert_equal_bits(original, copy)


def test_every_misfit_is_listed(tmp_path):
    state = tokenizer(0, latent_dim=8).state_dict()
    del state["encoder.conv_in.bias"]
    torch.save(state | {"encoder.extra": torch.zeros(1)}, tmp_path / "vae.pt")
    with pytest.raises(ValueError, match=r"missing: encoder\.conv_in\.bias") as failure:
        load_strictly(tokenizer(0), read_tokenizer(tmp_path / "vae.pt"), source="the file")
    assert "foreign: encoder.extra" in str(failure.value)
    assert "quant_conv.weight (16, 16, 1, 1) for (8, 8, 1, 1)" in str(failure.value)


def test_files_with_foreign_objects_are_refused(tmp_path):
    path = tmp_path / "objects.pt"
    torch.save({"state_dict": pickle.Pickler}, path)
    with pytest.raises(ValueError, match="tensors and plain values only"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="must be a file"):
        read_checkpoint(tmp_path / "absent.pt")


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "first_stage_model."]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix, suffix):
    original, copy, path = tokenizer(0), tokenizer(1), tmp_path / f"vae.{suffix}"
    state = {f"{prefix}{name}": value for name, value in original.state_dict().items()}
    if prefix == "first_stage_model.":
        state["model.diffusion_model.out.weight"] = torch.zeros(1)
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    weights = read_tokenizer(path)
    load_strictly(copy, weights, source="the file")
    assert_equal_bits(original, copy)
    others = prefix == "first_stage_model."
    assert weights.left_out == (("model.diffusion_model.out.weight",) if others else ())


@pytest.mark.parametrize("entry", ENTRIES)
def test_weights_are_found_under_the_names_of_the_field(tmp_path, entry):
    original, copy, path = generator(0), generator(1), tmp_path / "dit.pt"
    beside = {"args": Namespace(lr=1e-4), "step": 3, "opt": {"state": {0: torch.zeros(1)}}}
    torch.save({entry: original.state_dict() | {"epoch": 7}, **beside}, path)
    weights = read_generator(path)
    load_strictly(copy, weights, source="the file")
    assert_equal_bits(original, copy)
    assert (weights.entry, weights.left_out) == (entry, (f"{entry}.epoch",))
    headers = read_generator(path, headers=True)
    assert {n: v.shape for n, v in headers.items()} == {n: v.shape for n, v in weights.items()}
    assert all(value.is_meta for value in headers.values())


def test_another_entry_is_taken_where_it_is_named(tmp_path):
    averaged, current, path = generator(0), generator(1), tmp_path / "dit.pt"
    torch.save({"ema": averaged.state_dict(), "mine": current.state_dict()}, path)
    assert read_generator(path).entry == "ema"
    copy = generator(2)
    load_strictly(copy, read_generator(path, entry="mine"), source="the file")
    assert_equal_bits(current, copy)
    with pytest.raises(ValueError, match="under `model`, but its entries with tensors are ema, mi"):
        read_generator(path, entry="model")


def test_heads_of_representation_alignment_are_left_out(tmp_path):
    original, path = generator(0), tmp_path / "dit.pt"
    torch.save({"ema": original.state_dict() | {"projectors.0.weight": torch.zeros(1)}}, path)
    weights = read_generator(path)
    load_strictly(generator(1), weights, source="the file")
    assert weights.left_out == ("projectors.0.weight",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value, suffix):
    model, path = generator(0), tmp_path / f"dit.{suffix}"
    with torch.no_grad():
        model.y_embedder.embedding_table.weight[3, 5] = value
    export_generator(model, path)
    with pytest.raises(ValueError, match=r"y_embedder\.embedding_table\.weight \(1 of 704\)"):
        read_generator(path)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files_are_named_with_a_remedy(tmp_path, suffix):
    path = tmp_path / f"dit.{suffix}"
    export_generator(generator(0), path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"\0" * 64, whole[7:]):
        path.write_bytes(content)
        for headers in (False, True):
            with pytest.raises(ValueError, match=r"dit\..* could not be read .*copy it again"):
                read_tensors(path, headers=headers)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        read_tensors(path)


def test_weights_at_twice_their_size_load_where_attention_is_placed_as_in_training(tmp_path):
    shape = {"base_width": 4, "width_multipliers": (1, 2), "num_blocks": 1, "norm_groups": 2}
    config = AutoencoderConfig(**shape, attention_resolutions=(16,))
    trained = Autoencoder(config, latent_dim=2, resolution=32)
    export_tokenizer(trained, tmp_path / "vae.pt")
    weights = read_tokenizer(tmp_path / "vae.pt")
    with pytest.raises(ValueError, match=r"give that as `architecture\.attention_placed_for`"):
        load_strictly(Autoencoder(config, latent_dim=2, resolution=64), weights, source="x")
    placed = AutoencoderConfig(**shape, attention_resolutions=(16,), attention_placed_for=32)
    larger = Autoencoder(placed, latent_dim=2, resolution=64)
    load_strictly(larger, weights, source="x")
    assert larger.decode(larger.encode(torch.zeros(1, 3, 64, 64)).mode()).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("prefix", ["model.", "pipeline.vae.", "_forward_module.model."])
def test_a_prefix_that_all_tensors_have_is_taken_off(tmp_path, prefix):
    original, copy = tokenizer(0), tokenizer(1)
    wrapped = {f"{prefix}{name}": value for name, value in original.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "vae.pt")
    load_strictly(copy, read_tokenizer(tmp_path / "vae.pt"), source="the file")
    assert_equal_bits(copy, original)
    # Of two networks under two prefixes neither is guessed.
    torch.save({"state_dict": wrapped | {"other.weight": torch.ones(1)}}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match="foreign: "):
        load_strictly(copy, read_tokenizer(tmp_path / "two.pt"), source="the file")


def test_an_object_beside_the_weights_is_named_and_no_advice_is_quoted(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "at": tmp_path}, tmp_path / "vae.pt")
    with pytest.raises(ValueError, match=r"other objects \(pathlib\.") as refused:
        read_checkpoint(tmp_path / "vae.pt")
    assert "trust" not in str(refused.value)
    assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"<html>moved</html>"])
def test_what_a_reader_has_no_words_for_is_not_called_absent(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pt could not be read .*it is cut short, or"):
        read_checkpoint(path)
