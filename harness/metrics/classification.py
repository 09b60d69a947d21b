"""Does an extractor recognise the class that a generator was asked for?"""

from jaxtyping import Bool, Float, Int64
from torch import Tensor


def labels_met(logits: Float[Tensor, "b k"], labels: Int64[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """Whether each image's most likely class is the one asked for; their mean is the accuracy."""
    num_classes = logits.shape[1]
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, the extractor's classes, but got "
            f"{int(labels.min())}..{int(labels.max())}; use an extractor trained on this data set"
        )
    return logits.argmax(dim=1) == labels.to(logits.device)
