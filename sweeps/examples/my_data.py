"""A data set of one's own: discs and squares of random size, drawn from the index."""

import numpy as np


class Shapes:
    """Pairs (8-bit image [h, w, 3], label) of a split; label 0 is a disc and 1 a square."""

    def __init__(self, split: str, side: int = 16, count: int = 600) -> None:
        self.side, self.count, self.seed = side, count, 0 if split == "train" else 1
        self.targets = [index % 2 for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        random = np.random.default_rng([self.seed, index])
        radius, (row, column) = random.uniform(2, 5), random.uniform(5, self.side - 5, 2)
        dy, dx = np.abs(np.mgrid[: self.side, : self.side] - np.array([row, column])[:, None, None])
        inside = (np.hypot(dy, dx) if index % 2 == 0 else np.maximum(dy, dx)) < radius
        colour = random.integers(100, 255, 3)
        return (inside[:, :, None] * colour).astype(np.uint8), index % 2
