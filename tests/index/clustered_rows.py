"""Rows that lie in clusters, as embeddings do, and how much of what should be found was."""

import numpy as np
from numpy.typing import NDArray


def clustered(n: int, dim: int, seed: int, clusters: int = 40) -> NDArray[np.float32]:
    """Rows of length 1 about centres that every seed shares."""
    centres = np.random.default_rng(99).standard_normal((clusters, dim))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, clusters, n)] + rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """The share of the ids wanted, -1 apart, that were found."""
    pairs = zip(found.tolist(), wanted.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b) - {-1}) / len(set(b) - {-1}) for a, b in pairs]))
