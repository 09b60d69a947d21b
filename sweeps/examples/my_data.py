"""A data set of one's own: discs and squares of random size in some noise, drawn from the index."""

import numpy as np


class Shapes:
    """Pairs (8-bit image [h, w, 3], label) of a split; label 0 is a disc and 1 a square."""

    def __init__(self, split: str, side: int = 16, count: int = 600) -> None:
        self.side, self.seed = side, 0 if split == "train" else 1
        self.targets = [index % 2 for index in range(count)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        random, grid = np.random.default_rng([self.seed, index]), np.mgrid[: self.side, : self.side]
        dy, dx = np.abs(grid - random.uniform(5, self.side - 5, (2, 1, 1)))
        inside = (np.hypot(dy, dx) if index % 2 == 0 else np.maximum(dy, dx)) < random.uniform(2, 5)
        noise = random.integers(0, 40, (self.side, self.side, 1))
        image = inside[:, :, None] * random.integers(100, 215, 3) + noise
        return image.astype(np.uint8), index % 2
