"""Counting the parameters of a network."""

from torch import nn

from models.foundation import EncoderNetwork


def num_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones such as a position code included (as published counts).

    A frozen feature network that a tokenizer looks through is no part of it.
    """
    looked_through = {
        parameter
        for module in model.modules()
        if isinstance(module, EncoderNetwork) and module is not model
        for parameter in module.parameters()
        if not parameter.requires_grad
    }
    return sum(p.numel() for p in model.parameters() if p not in looked_through)
