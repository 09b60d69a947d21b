"""What holds for every test: shapes are checked, and sums are taken in one order."""

import jaxtyping
import torch

jaxtyping.install_import_hook(["models", "harness"], "beartype.beartype")
torch.set_num_threads(1)
