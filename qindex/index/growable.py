"""Arrays that grow at their end, so that adding rows one by one stays cheap."""

from typing import Any

from numpy.typing import NDArray

from qindex.memory import empty
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
            buffer = empty((max(used, len(self._buffer) * 3 // 2), *self._buffer.shape[1:]), self._buffer.dtype)
            buffer[: self._used] = self._buffer[: self._used]
            self._buffer = buffer
        self._buffer[self._used : used] = rows
        self._used = used
        return self._buffer[:used]


class GrowableCodes:
    """The same for all arrays of a `Codes`."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        self._arrays = [Growable(array) for array in codes.rowwise]

    def append(self, more: Codes) -> Codes:
        """Add rows of the same format and dim and return all."""
        grown = [array.append(new) for array, new in zip(self._arrays, more.rowwise, strict=True)]
        self._codes = self._codes.with_rowwise(grown, max(self._codes.max_norm, more.max_norm))
        return self._codes
