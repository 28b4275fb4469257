"""The check of top-k that several files of this folder make."""

from typing import Any

import numpy as np
from kernel_rows import assert_same_bits, largest_norm
from numpy.typing import NDArray

from qindex_kernels import reference
from qindex_kernels.cpu.topk import BATCH_QUERIES, topk
from qindex_kernels.layout import Rows


def assert_topk_is_exact(
    rows: Rows,
    values: NDArray[np.float32],
    k: int,
    offset: NDArray[np.float64] | None = None,
    ids: NDArray[np.int64] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> None:
    """Equal to the reference to the bit, on the way that few queries take and on that of a batch."""
    offset = np.zeros(len(values)) if offset is None else offset
    ids = np.arange(len(rows.data))[::-1].copy() if ids is None else ids
    rest: Any = (ids, allow, k, largest_norm(rows))
    best, scores = reference.topk(rows, values, offset, *rest)
    for m in (BATCH_QUERIES - 1, BATCH_QUERIES + 1):
        for start in range(0, len(values), m):
            part = np.arange(start, start + m) % len(values) if m > BATCH_QUERIES else slice(start, start + m)
            found = topk(rows, values[part], offset[part], *rest)
            np.testing.assert_array_equal(found[0], best[part])
            assert_same_bits(found[1], scores[part])
            assert not np.isnan(found[1]).any()
