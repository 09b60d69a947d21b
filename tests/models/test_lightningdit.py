import itertools
import math
import os
import subprocess
import sys

import pytest
import torch

from models.latent import ChannelGroup, LatentLayout
from models.lightningdit import SIZES, DiTShape, LightningDiT, LightningDiTConfig
from models.lightningdit_blocks import Attention
from models.objectives.flow import flow_loss
from models.objectives.objective import drop_labels
from models.parameters import num_parameters
from models.positions import rotary_angles, sincos_position_code, time_sinusoid
from models.repa import REPAConfig, REPAHead

PUBLISHED_COUNTS = {
    ("B", 1): 130_556_192,
    ("B", 2): 130_556_288,
    ("L", 1): 458_152_960,
    ("L", 2): 458_153_056,
    ("XL", 1): 675_256_736,
    ("XL", 2): 675_256_832,
    ("1p0B", 1): 1_029_401_120,
    ("1p0B", 2): 1_029_401_216,
    ("1p6B", 1): 1_631_767_120,
    ("1p6B", 2): 1_631_767_216,
}
LAYOUT = LatentLayout.single(4, 4, 4)


def on_meta(layout=None, **options) -> LightningDiT:
    with torch.device("meta"):
        return LightningDiT(
            LightningDiTConfig(**options),
            layout=layout or LatentLayout.single(32, 16, 16),
            num_classes=1000,
        )


def pico(layout=LAYOUT, seed=0, **options) -> LightningDiT:
    torch.manual_seed(seed)
    config = LightningDiTConfig(size="pico", **options)
    return LightningDiT(config, layout=layout, num_classes=10)


@pytest.mark.parametrize(("size", "patch"), PUBLISHED_COUNTS)
def test_published_sizes_have_the_published_parameter_counts(size, patch):
    model = on_meta(size=size, patch_size=patch)
    assert num_parameters(model) == PUBLISHED_COUNTS[size, patch]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = (16 // patch) ** 2
    assert num_parameters(model) - trainable == tokens * model.config.shape.width


def test_switches_change_the_parameter_count_as_published():
    assert num_parameters(on_meta(qk_norm=True)) == 675_256_736 + 4_032
    assert num_parameters(on_meta(swiglu=False, rmsnorm=False)) == 675_148_064
    sd_vae = LatentLayout.single(4, 32, 32)
    assert num_parameters(on_meta(layout=sd_vae, patch_size=2)) == 675_219_856


def test_state_dict_has_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in on_meta().state_dict().items()}
    assert len(shapes) == 351
    assert shapes["pos_embed"] == (1, 256, 1152)
    assert shapes["feat_rope.freqs_sin"] == (256, 72)
    assert shapes["t_embedder.mlp.0.weight"] == (1152, 256)
    assert shapes["y_embedder.embedding_table.weight"] == (1001, 1152)
    assert shapes["blocks.27.mlp.w12.weight"] == (6144, 1152)
    assert shapes["blocks.0.adaLN_modulation.1.weight"] == (6912, 1152)
    assert shapes["final_layer.linear.weight"] == (32, 1152)


@pytest.mark.parametrize("size", SIZES)
def test_every_named_size_can_be_built(size):
    assert len(on_meta(size=size).blocks) == SIZES[size].depth


def test_time_sinusoid_has_the_published_values():
    code = time_sinusoid(torch.tensor([0.5]), 256)[0, [0, 1, 64, 127, 128, 129, 192, 255]]
    expected = [0.87758, 0.89369, 0.99999, 1.0, 0.47943, 0.44868, 0.00500, 5.373e-5]
    assert code.tolist() == pytest.approx(expected, abs=1e-5)


def test_position_code_puts_columns_first():
    code = sincos_position_code(16, 16, 1152)[0]
    dims = [0, 288, 576, 864]
    assert code[1, dims].tolist() == pytest.approx([math.sin(1), math.cos(1), 0, 1])
    assert code[16, dims].tolist() == pytest.approx([0, 1, math.sin(1), math.cos(1)])


def test_rotary_code_puts_rows_first_and_repeats_each_frequency():
    cosine = rotary_angles(16, 16, 72).cos()
    expected = [0.5403, 0.5403, 0.8256, 0.8256, 0.9361, 0.9361, 0.9769, 0.9769]
    assert cosine[16, :8].tolist() == pytest.approx(expected, abs=1e-4)
    assert cosine[16, 36:].tolist() == [1.0] * 36
    assert cosine[1, :8].tolist() == [1.0] * 8


@pytest.mark.parametrize("groups", [1, 2])
def test_a_fresh_network_predicts_zero(groups):
    parts = tuple(ChannelGroup(name=f"part{i}", channels=4 // groups) for i in range(groups))
    model = pico(LatentLayout(groups=parts, height=4, width=4))
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(64, 4, 4, 4, generator=generator) * math.sqrt(2.0)
    velocity = model(target, torch.full((64, groups), 0.5), torch.zeros(64, dtype=torch.long))
    terms = flow_loss(velocity.detach(), target, model.layout, groups * (1.0,))
    assert float(terms["velocity_mse"]) == pytest.approx(2.0, rel=0.1)
    assert float(terms["velocity_direction"]) == 1.0


def test_tap_leaves_the_velocity_as_it_is_and_feeds_the_head():
    model = pico()
    x, t, labels = torch.ones(2, 4, 4, 4), torch.full((2, 1), 0.5), torch.tensor([0, 10])
    velocity, tokens = model.forward_with_tap(x, t, labels, 2)
    assert torch.equal(velocity, model(x, t, labels))
    head = REPAHead(REPAConfig(hidden_width=16), width=64, feature_dim=8)
    assert 0.0 <= head(tokens, torch.ones(2, 8, 4, 4)).item() <= 2.0


def test_label_dropout_is_repeatable_and_has_the_asked_rate():
    labels = torch.zeros(10_000, dtype=torch.long)
    dropped = [drop_labels(labels, 10, 0.1, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*dropped)
    assert float((dropped[0] == 10).float().mean()) == pytest.approx(0.1, abs=0.01)


def test_misfitting_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        DiTShape(depth=1, width=60, num_heads=6)
    with pytest.raises(ValueError, match="must be one of pico"):
        LightningDiTConfig(size="XXL")
    with pytest.raises(ValueError, match="must divide the latent grid"):
        pico(LatentLayout.single(4, 5, 4), patch_size=2)


COMPILED = """
import torch
from models.latent import LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig
torch.manual_seed(0)
config = LightningDiTConfig(size=DiTShape(depth=1, width=32, num_heads=2))
model = LightningDiT(config, layout=LatentLayout.single(4, 4, 4), num_classes=10)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
inputs = torch.randn(2, 4, 4, 4), torch.rand(2, 1), torch.tensor([1, 10])
with torch.no_grad():
    eager, compiled = model(*inputs), torch.compile(model, fullgraph=True)(*inputs)
torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
"""


def test_compiled_network_has_no_graph_break_and_agrees_with_eager():
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, env=environment
    )
    if "InvalidCxxCompiler" in done.stderr or "CppCompileError" in done.stderr:
        pytest.skip("the C++ compiler that torch.compile needs on the CPU is absent")
    assert done.returncode == 0, done.stderr


def test_tokens_lie_in_one_piece_of_memory_in_every_block():
    model = pico()
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    model(torch.ones(2, 4, 4, 4), torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))
    assert seen == [True] * len(model.blocks)


@torch.no_grad()
def test_a_time_that_a_batch_shares_modulates_each_class_once():
    model, seen = pico(), []
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for name, layer in model.named_modules():
        if name.endswith("adaLN_modulation"):
            layer.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    x, labels = torch.randn(24, 4, 4, 4), torch.arange(24) % 11
    shared = torch.full((1, 1), 0.3).expand(24, -1)
    each = model(x, shared.contiguous(), labels)
    assert seen == 4 * [24]
    seen.clear()
    once = model(x, shared, labels)
    assert seen == 4 * [11]
    torch.testing.assert_close(once, each, rtol=0, atol=2e-6 * float(each.abs().max()))
    seen.clear()
    few = model(x[:8], shared[:8], labels[:8])
    assert seen == 4 * [8]
    assert torch.equal(few, model(x[:8], shared[:8].contiguous(), labels[:8]))


SWITCHES = ("qk_norm", "swiglu", "rope", "rmsnorm", "adaln_shift")


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("on", list(itertools.product([False, True], repeat=5)))
def test_every_combination_of_switches_has_the_published_tensors(on, patch):
    is_on = dict(zip(SWITCHES, on, strict=True))
    norms = [".weight"] if is_on["rmsnorm"] else []
    heads = norms or [".weight", ".bias"]
    linear = [".weight", ".bias"]
    inside = [
        *(f"norm{n}{end}" for n in (1, 2) for end in norms),
        *(f"attn.{name}{end}" for name in ("qkv", "proj") for end in linear),
        *(f"attn.{name}{end}" for name in ("q_norm", "k_norm") for end in heads),
        *(f"mlp.{n}{end}" for n in (("w12", "w3") if is_on["swiglu"] else ("fc1", "fc2"))
          for end in linear),
        *(f"adaLN_modulation.1{end}" for end in linear),
    ]  # fmt: skip
    inside = [name for name in inside if is_on["qk_norm"] or "_norm" not in name.partition(".")[2]]
    outside = ["pos_embed", "y_embedder.embedding_table.weight"]
    outside += [f"final_layer.norm_final{end}" for end in norms]
    outside += ["feat_rope.freqs_cos", "feat_rope.freqs_sin"] if is_on["rope"] else []
    layers = ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear",
              "final_layer.adaLN_modulation.1")  # fmt: skip
    outside += [f"{layer}{end}" for layer in layers for end in linear]
    shape = DiTShape(depth=1, width=16, num_heads=2)
    found = on_meta(size=shape, patch_size=patch, **is_on).state_dict()
    assert set(found) == {*outside, *(f"blocks.0.{name}" for name in inside)}
    if is_on["qk_norm"]:
        assert found["blocks.0.attn.q_norm.weight"].shape == (8,)
    vectors = 6 if is_on["adaln_shift"] else 4
    assert found["blocks.0.adaLN_modulation.1.weight"].shape == (16 * vectors, 16)


def test_heads_are_normalised_by_layernorm_where_tokens_are():
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=True, rmsnorm=False)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 5, 16)
    query, key, value = attention.qkv(x).reshape(3, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)

    def normed(heads: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
        centred = heads - heads.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * norm.get_parameter("weight") + norm.get_parameter("bias")

    query, key = normed(query, attention.q_norm), normed(key, attention.k_norm)
    weights = (query @ key.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
    expected = attention.proj((weights @ value).transpose(1, 2).reshape(3, 5, 16))
    torch.testing.assert_close(attention(x, None), expected, rtol=1e-5, atol=1e-5)
