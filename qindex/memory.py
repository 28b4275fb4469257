"""Where arrays begin: NumPy lets large ones begin 16 bytes behind a cache line, and then each row of whole lines, which
walks and scans read, touches one line more than it has.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64  # bytes


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A C-contiguous array of any content that begins at a cache line."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(n_bytes + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + n_bytes].view(dtype).reshape(shape)


def taken(array: NDArray[Any], rows: NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[Any]:
    """A copy of some rows of an array, by a mask or by numbers in range, that begins at a cache line."""
    numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
    result = empty((len(numbers), *array.shape[1:]), array.dtype)
    return np.take(array, numbers, axis=0, out=result, mode="clip")  # other modes copy twice
