"""A folder of images, from files to a table row: other data need other settings and no code."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.run import main
from harness.storage.artifacts import Store

pytestmark = pytest.mark.usefixtures("one_file_a_figure")
SWEEP = """
name: folder
trial:
  data:
    kind: image_folder
    name: blocks
    root: {root}
    resolution: 16
    num_classes: 2
    num_train_images: 100
    num_eval_images: 20
    flip: true
  tokenizer:
    latent_dim: 2
    architecture: {{base_width: 8, width_multipliers: [1, 1, 2], num_blocks: 1,
                    attention_resolutions: [], norm_groups: 4}}
    training: {{steps: 3, batch_size: 8, learning_rate: 1e-3}}
  latents: {{flip: true, num_statistics: 50}}
  generator:
    size: {{depth: 1, width: 16, num_heads: 2}}
    patch_size: 2
    training: {{steps: 3, batch_size: 8, learning_rate: 1e-3}}
  evaluation:
    extractor:
      kind: in_domain
      name: vit_tiny_patch16_224
      model_args: {{img_size: 16, patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}}
      training: {{steps: 3, batch_size: 8, learning_rate: 1e-3}}
    num_images: 30
    label_policy: data
    sampler: {{num_steps: 3, timestep_shift: 0}}
    guidance: [{{kind: none}}, {{kind: cfg, scale: 2.0}}]
"""


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of 32x32 noise, 50 training and 10 evaluation images each."""
    random = np.random.default_rng(0)
    for split, count in (("train", 50), ("val", 10)):
        for level, name in ((60, "dark"), (200, "light")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(-50, 50, (32, 32, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(folder / f"{number:02}.png")
    return tmp_path / "images"


def test_a_folder_of_images_becomes_rows(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(SWEEP.format(root=images))
    assert main(["sweep.yaml", "--executor", "inline"]) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "executed 8 stages" in out
    assert "blocks, 16 px" in out
    (path,) = Path("artifacts/latents").iterdir()
    latents = Store(Path("artifacts")).get("latents", path.name)
    assert latents.result["views"] == ["latents", "latents_flip"]
    assert latents.result["label_counts"] == [50, 50]
    shard = latents.tensors("latents_shard00000.safetensors")
    assert shard["latents"].shape == shard["latents_flip"].shape == (100, 2, 4, 4)
    assert not shard["latents"].equal(shard["latents_flip"])


def test_a_folder_with_fewer_images_than_declared_is_a_named_failure(
    images, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(SWEEP.format(root=images))
    next((images / "train" / "dark").iterdir()).unlink()
    assert main(["sweep.yaml", "--executor", "inline"]) == 2
    assert "must hold 100 images" in capsys.readouterr().err
