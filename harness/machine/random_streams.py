"""Random numbers that depend on (seed, purpose, step) only.

No generator lives longer than a step, so a resumed run draws what the undisturbed run drew, and
no state needs saving.
"""

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose and step of one run."""
    # sha256, because Python's hash() of a text differs between processes. The names of purposes
    # are part of every number that was ever drawn: renaming one moves results.
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(
    seed: int, *names: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator seeded with `derive_seed(seed, *names)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))
