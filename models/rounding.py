"""Weights of frozen networks in bfloat16, for use under autocast."""

from torch import nn


def round_weights(module: nn.Module) -> None:
    """Keep the weights of linear and convolutional layers in bfloat16.

    Autocast would round them at every call, since it remembers the rounded weights of what is
    trained only. No number moves, as long as the module is called under bfloat16 autocast.

    Args:
        module: A frozen network; changed in place. Norms and embeddings stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.bfloat16()
