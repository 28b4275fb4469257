"""What Python tells a kernel beside arrays: records of numbers and addresses, each passed as one address.

numba would take a NamedTuple apart and hand it over field by field, at every call: tens of microseconds from Python,
hundreds of nanoseconds between kernels.
"""

import ctypes
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line

INTEGER, REAL = ctypes.c_int64, ctypes.c_double


class Record(ctypes.Structure):
    """Subclasses name their fields, each an INTEGER (numbers, and addresses: 0 for none) or a REAL."""

    @property
    def address(self) -> int:
        """Where it lies, as long as it lives."""
        return ctypes.addressof(self)


def reader(record: type[Record]) -> Any:
    """A word for kernels: the record at an address, whose fields they read and write by name."""
    kind = from_dtype(np.dtype(record))

    def read(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.intp), codegen

    read.__name__, read.__doc__ = f"read_{record.__name__}", f"The {record.__name__} at an address."
    return intrinsic(read)


class Room:
    """Memory that lives as long as this object, cut into pieces that begin at cache lines: zeroed, unless `blank`."""

    def __init__(self, *sizes: int, blank: bool = False) -> None:
        rounded = [-(-size // LINE) * LINE for size in sizes]
        total = sum(rounded) + LINE
        self._memory = np.empty(total, np.uint8) if blank else bytearray(total)
        at = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        at += -at % LINE
        self.pieces: list[int] = []
        for size in rounded:
            self.pieces.append(at)
            at += size
