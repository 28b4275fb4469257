"""Arrays that grow at their end, so that adding rows one by one stays cheap."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex.types import Codes


class Growable:
    """An array whose first axis grows in amortised constant time. A view taken earlier stays valid and unchanged."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._buffer = array
        self._used = len(array)

    def append(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Add rows and return a view of all."""
        used = self._used + len(rows)
        if used > len(self._buffer):
            buffer = np.empty((max(used, len(self._buffer) * 3 // 2), *self._buffer.shape[1:]), self._buffer.dtype)
            buffer[: self._used] = self._buffer[: self._used]
            self._buffer = buffer
        self._buffer[self._used : used] = rows
        self._used = used
        return self._buffer[:used]


class GrowableCodes:
    """The same for all arrays of a `Codes`."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        self._arrays = {
            name: Growable(array) for name in ("data", "scale", "offset") if (array := getattr(codes, name)) is not None
        }

    def append(self, more: Codes) -> Codes:
        """Add rows of the same format and dim and return all."""
        grown: dict[str, Any] = {name: array.append(getattr(more, name)) for name, array in self._arrays.items()}
        self._codes = dataclasses.replace(self._codes, max_norm=max(self._codes.max_norm, more.max_norm), **grown)
        return self._codes
