"""No tokenizer: pixels as latents, beside trained tokenizers in one sweep."""

import csv
from pathlib import Path

import pytest
import torch

from harness.commands.conformance import findings
from harness.data.pixel_range import to_model_range, to_uint8
from harness.schema.reading import ConfigError
from harness.stages.tokenizer.identity import IdentityTokenizer

PIXELS = "tokenizer={kind: identity, space_to_depth: 4}"


@pytest.mark.parametrize("block", [1, 2, 4])
def test_pixels_come_back_as_they_were(block):
    pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    tokenizer = IdentityTokenizer(block)
    latents = tokenizer.encode(to_model_range(pixels)).mode()
    assert latents.shape == (2, 3 * block**2, 16 // block, 16 // block)
    assert torch.equal(to_uint8(tokenizer.decode(latents)), pixels)


def test_it_is_a_row_beside_trained_tokenizers(command, write, tree):
    trained = tree["trial"]["tokenizer"]
    tree["presets"]["tokenizer"] = {
        "trained": {"tokenizer": {"kind": "va_vae", **trained}},
        "pixels": {"tokenizer": {"kind": "identity", "space_to_depth": 4}},
    }
    del tree["trial"]["tokenizer"]
    tree["grid"] = {"tokenizer": ["trained", "pixels"], "seed": [0, 1]}
    ended = command(write(tree))
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("results/small/table.csv").read_text().splitlines()))
    pixels = [row for row in rows if row["tokenizer"] == "identity"]
    assert [row["status"] for row in rows] == 4 * ["done"]
    assert [(row["latent_dim"], row["downsample"]) for row in pixels] == 2 * [("48", "4")]
    assert all(abs(float(row["rfid"])) < 1e-6 and row["psnr"] == "" for row in pixels)
    assert all(float(row["ssim"]) == pytest.approx(1.0) for row in pixels)
    assert all(row["provenance"] == "reproduced" for row in pixels)
    # Nothing is trained, so seeds share it; what it costs is the generator's training alone.
    assert len({row["tokenizer_key"] for row in pixels}) == 1
    assert all(float(row["train_flops"]) > 0 for row in pixels)


def test_it_keeps_to_what_every_kind_must(load):
    found = list(findings(load(PIXELS)))
    assert found
    assert [each for each in found if each.error] == []


def test_blocks_that_do_not_tile_the_image_are_refused(load):
    with pytest.raises(ConfigError, match="must be a multiple of the tokenizer's downsampling"):
        load("tokenizer={kind: identity, space_to_depth: 3}")
    with pytest.raises(ConfigError, match="`space_to_depth` must be at least 1, but got 0"):
        load("tokenizer={kind: identity, space_to_depth: 0}")
