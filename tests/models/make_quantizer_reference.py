"""Writes quantizer_reference.json: numbers of vector-quantize-pytorch for test_quantizers.py.

    pip install vector-quantize-pytorch==1.32.0
    python tests/models/make_quantizer_reference.py

Its switches are set so that its definitions are ours: no rotation trick, no dead codes, and counts
that are not smoothed (by 1e-5 unless told otherwise). With a learnt codebook its one loss is our
commitment and codebook terms, each with weight 1. It has no learnt codebook of unit length. Its
dead codes are those with a low moving average of uses, which start at random vectors, so no
restart of ours can be held to it. Its scalar quantiser rounds by other borders than ours; the
numbering and values of levels agree.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from vector_quantize_pytorch import FSQ, VectorQuantize  # pyright: ignore[reportMissingImports]

PLAIN = {"rotation_trick": False, "threshold_ema_dead_code": 0, "eps": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "gradient": {"learnable_codebook": True, "ema_update": False},
    "averaged": {"decay": 0.9},
    "averaged, unit length": {"decay": 0.9, "use_cosine_sim": True},
}
STEPS, CODES, WIDTH = 3, 7, 3


def steps_of(name: str) -> dict[str, Any]:
    """A few batches through one quantiser, and all that they change."""
    torch.manual_seed(len(name))
    theirs = VectorQuantize(
        dim=WIDTH, codebook_size=CODES, accept_image_fmap=True, **PLAIN, **CASES[name]
    )
    book = theirs._codebook
    start = torch.randn(1, CODES, WIDTH)
    if book.use_cosine_sim:
        start = start / start.norm(dim=-1, keepdim=True)
    book.embed.data.copy_(start)
    book.embed_avg.data.copy_(start)
    steps = []
    for _ in range(STEPS):
        given = torch.randn(2, WIDTH, 2, 2, requires_grad=True)
        push = torch.randn(2, WIDTH, 2, 2)
        quantized, indices, loss = theirs(given)
        ((quantized * push).sum() + loss.sum()).backward()
        step = {
            "given": given,
            "push": push,
            "latent": quantized,
            "indices": indices.flatten(1),
            "loss": loss.sum(),
            "gradient": given.grad,
            "codes": book.embed[0],
        }
        if (gradient := book.embed.grad) is not None:
            step["codebook_gradient"], book.embed.grad = gradient[0], None
        else:
            step |= {"counts": book.cluster_size[0], "sums": book.embed_avg[0]}
        steps.append({what: tensor.tolist() for what, tensor in step.items()})
    return {"start": start[0].tolist(), "steps": steps}


if __name__ == "__main__":
    levels = FSQ([4, 3, 2], preserve_symmetry=True)
    numbers = {
        "made_by": f"vector-quantize-pytorch {version('vector-quantize-pytorch')}",
        **{name: steps_of(name) for name in CASES},
        "levels 4 3 2": levels.indices_to_codes(torch.arange(24)).tolist(),
    }
    path = Path(__file__).with_name("quantizer_reference.json")
    path.write_text(json.dumps(numbers, indent=None, separators=(",", ":")) + "\n")
