"""Counting the parameters of a network."""

from torch import nn


def num_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones such as a position code included (as published counts)."""
    return sum(parameter.numel() for parameter in model.parameters())
