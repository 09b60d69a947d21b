"""The released systems of Semantic-First Diffusion, in small: rows from official files alone."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.config.sweep import load_sweep
from harness.plan.plan import make_plan
from harness.stages.generator.kinds import kind_of
from harness.stages.tokenizer.stage import build_tokenizer
from models.checkpoint import export_generator, export_tokenizer
from models.repa import HEAD, REPAConfig, REPAHead

SHIPPED = Path(__file__).parents[3] / "sweeps" / "sfd_released.yaml"
VIT = {
    "kind": "timm",
    "name": "vit_tiny_patch16_224",
    "weights": "random",
    "model_args": {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    | {"class_token": False, "global_pool": "avg"},
}
SIZES = {"XL": (2, 16), "B": (1, 16), "1p0B": (1, 32)}


def smaller(tree: Any) -> Any:
    """The tree with each named size as a tiny shape."""
    if isinstance(tree, dict):
        return {name: smaller(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [smaller(value) for value in tree]
    if isinstance(tree, str) and tree in SIZES:
        depth, width = SIZES[tree]
        return {"depth": depth, "width": width, "num_heads": 2}
    return tree


@pytest.fixture
def small(tree, write):
    """The shipped file on digits: its own settings but for data, sizes and numbers of images."""
    shipped = smaller(yaml.safe_load(SHIPPED.read_text()))
    own, trial = tree["trial"], shipped["trial"]
    trial["data"] = own["data"]
    trial["tokenizer"]["texture"] |= {"latent_dim": 2, "loss": {}} | {
        "architecture": own["tokenizer"]["architecture"]
    }
    trial["tokenizer"]["semantic"] |= {"latent_dim": 3, "downsample": 4, "encoder": VIT} | {
        "shape": {"width": 16, "num_heads": 2, "num_blocks": 1}
    }
    trial["latents"] = {"flip": False, "num_images": 200, "num_statistics": 200}
    trial["evaluation"] |= own["evaluation"] | {"num_images": 20, "batch_size": 20}
    for name in ("perceptual", "reconstruction_crop", "reference_crop"):
        del trial["evaluation"][name]
    trial["evaluation"]["sampler"] = {"kind": "dopri5", "atol": 1e-2, "rtol": 1e-1}
    shipped["resources"] = {}
    return write(shipped)


def write_official_files(path: Path) -> None:
    """Random networks of a sweep under the official names, where the sweep looks for them."""
    Path("sfd").mkdir()
    for number, stage in enumerate(make_plan(load_sweep(path)).stages):
        torch.manual_seed(number)
        settings: Any = getattr(stage.config, "tokenizer", None)
        if stage.kind == "tokenizer" and settings.kind == "va_vae":
            network: Any = build_tokenizer(stage.config)
            export_tokenizer(network, settings.checkpoint)
        if stage.kind == "tokenizer" and settings.kind == "semvae":
            codec: Any = build_tokenizer(stage.config).codec
            state = codec.state_dict()
            torch.save({"model_state_dict": state, "iteration": 1}, settings.checkpoint)
        if stage.kind == "generator":
            settings = stage.config.generator
            network: Any = kind_of(settings).build(stage.config)
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
            head = REPAConfig(hidden_width=8, head="within")
            network.add_module(
                HEAD, REPAHead(head, width=network.token_width, feature_dim=4).project
            )
            export_generator(network, settings.checkpoint)
            content = torch.load(settings.checkpoint, weights_only=True)
            assert {"t_embedder_sem.mlp.0.weight", f"{HEAD}.4.bias"} <= content["ema"].keys()


def test_official_files_give_every_row_and_nothing_is_trained(small, command):
    write_official_files(small)
    ended = command(small)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(Path("results/sfd_released/table.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert {row["status"] for row in rows} == {"done"}
    assert {row["provenance"] for row in rows} == {"published"}
    guided = [row["guidance"] for row in rows if row["guidance"] != "none"]
    assert guided == ["autoguidance 1.6"] + 3 * ["autoguidance 1.5"]
    assert len({row["gfid"] for row in rows}) == 8
    assert len({row["rfid"] for row in rows}) == 1
    stages = list(Path("artifacts").glob("generator/*"))
    assert len(stages) == 7
    assert not list(Path("artifacts").glob("*/*/curve.jsonl"))


def test_a_file_of_the_texture_alone_is_refused_by_name(small, command):
    write_official_files(small)
    # The baseline's network: as many blocks, its latent without the semantic channels.
    file = Path("sfd/xl_80ep.pt")
    content = torch.load(file, weights_only=True)
    for weights in content.values():
        for name in list(weights):
            if name.endswith("x_embedder.proj.weight"):
                weights[name] = weights[name][:, :2]
            if "final_layer.linear" in name:
                weights[name] = weights[name][:2]
    torch.save(content, file)
    ended = command(small, "--dry-run")
    assert ended.code == 2
    assert "trial.generator.checkpoint" in ended.err
    assert "x_embedder.proj.weight (16, 2, 1, 1) for (16, 5, 1, 1)" in ended.err
