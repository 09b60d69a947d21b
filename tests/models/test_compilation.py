"""Compiled networks agree with the same networks run as they are, in values and gradients.

Each case runs in a process of its own, without the shape checks that the test run installs.
"""

import logging
import os
import subprocess
import sys

import pytest
import torch

from models import compilation

GENERATOR = """
import copy
import torch
from models.latent import LatentLayout
from models.lightningdit import DiTShape, LightningDiT, LightningDiTConfig

torch.manual_seed(0)
config = LightningDiTConfig(size=DiTShape(depth=2, width=16, num_heads=2))
plain = LightningDiT(config, layout=LatentLayout.single(4, 4, 4), num_classes=10)
for parameter in plain.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
compiled = copy.deepcopy(plain)
compiled.compile_blocks()
assert list(compiled.state_dict()) == list(plain.state_dict())
inputs = torch.randn(2, 4, 4, 4), torch.rand(2, 1), torch.tensor([1, 10])
results = []
for model in (plain, compiled):
    loss = model(*inputs).square().sum()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    results.append([loss.detach(), *gradients])
torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
"""
TOKENIZER = """
import copy
import torch
from models.alignment import VFAlignment
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.discriminator import DiscriminatorConfig
from models.tokenizer_loss import TokenizerLoss, TokenizerLossConfig

torch.manual_seed(0)
shape = AutoencoderConfig(
    base_width=8, width_multipliers=(1, 1), num_blocks=1, norm_groups=4, attention_resolutions=()
)
plain = Autoencoder(shape, latent_dim=2, resolution=8)
loss = TokenizerLoss(
    TokenizerLossConfig(discriminator=DiscriminatorConfig(num_layers=1, base_width=4)),
    VFAlignment(cos_margin=0.0, distmat_margin=0.0),
    latent_dim=2,
    feature_dim=6,
)
compiled = copy.deepcopy(plain)
compiled.compile_trunks()
images, noise = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 2, 4, 4)
features = torch.randn(2, 6, 4, 4)
for step in (0, 10_000):  # before the adversarial term and after
    results = []
    for model in (plain, compiled):
        model.zero_grad()
        found = loss.autoencoder_loss(model, images, noise, features, step)
        found.total.backward()
        results.append([found.total.detach(), *found.weights.values()])
        results[-1] += [p.grad.clone() for p in model.parameters()]
    torch.testing.assert_close(*results, rtol=2e-4, atol=1e-4)
"""


@pytest.mark.skipif("FRONTIER_SLOW" not in os.environ, reason="two minutes; set FRONTIER_SLOW=1")
@pytest.mark.parametrize("script", [GENERATOR, TOKENIZER], ids=["generator", "tokenizer"])
def test_a_compiled_step_has_the_loss_and_the_gradients_of_the_plain_one(script):
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    if "InvalidCxxCompiler" in done.stderr or "CppCompileError" in done.stderr:
        pytest.skip("the C++ compiler that torch.compile needs on the CPU is absent")
    assert done.returncode == 0, done.stderr[-3000:]


def test_compiling_is_quiet_about_a_cuda_home_without_a_gpu():
    compilation.compiled(torch.sin)
    assert not logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING)
