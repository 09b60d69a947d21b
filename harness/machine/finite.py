"""Numbers that must be finite, wherever they would otherwise go on as plausible ones."""

from torch import Tensor


class Diverged(RuntimeError):
    """A loss, a gradient, a latent or an image is not finite; running again ends the same way."""


def require_finite(batch: Tensor, what: str, remedy: str) -> None:
    """Refuse a batch with values that are not finite: Diverged says how many items have some, and
    which first."""
    bad = (~batch.isfinite()).reshape(len(batch), -1).any(dim=1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise Diverged(
            f"{int(bad.sum())} of {len(batch)} {what} are not finite (the first is number {first} "
            f"of its batch); {remedy}"
        )
