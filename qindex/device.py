"""Coded rows on a GPU, and what the door does with them: it checks, and hands over to the functions of this module.

torch and Triton are loaded by `on_device` and not before.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qindex.formats import Format
from qindex.types import Codes, Matches, Queries
from qindex_kernels.layout import Rows

if TYPE_CHECKING:
    import torch

    from qindex_kernels.gpu.rows import DeviceRows


Activations = Literal["float32", "int8", "int8-block"]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceCodes:
    """`Codes` whose arrays are torch tensors of one GPU. `kernels.to_device` makes them."""

    rows: DeviceRows
    format: Format
    max_norm: float  # as in Codes
    column_scale: torch.Tensor | None  # float32 (dim,)

    def __len__(self) -> int:
        return self.rows.n

    @property
    def dim(self) -> int:
        return self.rows.dim

    @property
    def block(self) -> int:
        """Dimensions that share a scale and a zero; 0 where there are no blocks."""
        return self.rows.block

    @property
    def device(self) -> torch.device:
        return self.rows.data.device

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of all that rides with them, on the GPU."""
        import torch

        arrays = (*self.rows.pointers, self.column_scale)
        return sum(array.nbytes for array in arrays if isinstance(array, torch.Tensor))

    def moved(self, array: Any) -> torch.Tensor:
        """A NumPy array or a tensor as a tensor of this device."""
        from qindex_kernels.gpu.rows import moved

        return moved(array, self.device)

    def in_space(self, values: Any) -> torch.Tensor:
        """`values` (m, dim) on this device and in the space of the rows, where the column scales are in them."""
        there = self.moved(values)
        return there if self.column_scale is None else there * self.column_scale


def on_device(codes: Codes, rows: Rows, device: torch.device | str) -> DeviceCodes:
    """`kernels.to_device` of codes whose arrays are those of `rows`."""
    try:
        import torch
        import triton

        from qindex_kernels.gpu.rows import moved, to_device
    except ImportError:
        raise ImportError("to_device needs torch and triton: pip install 'qindex[gpu]'") from None
    if triton.knobs.runtime.interpret:
        usable = ["cpu"]
    elif (reason := why_no_gpu()) is None:
        usable = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    else:
        raise ValueError(f"device must be a GPU, got {str(device)!r}, but there is none: {reason}")
    if str(device) not in usable:
        raise ValueError(f"device must be {' or '.join(usable)}, got {str(device)!r}; the CPU takes codes as they are")
    columns = None if codes.column_scale is None else moved(codes.column_scale, device)
    return DeviceCodes(to_device(rows, device), codes.format, codes.max_norm, columns)


def why_no_gpu() -> str | None:
    """What is missing for kernels on a GPU, None where nothing is. Loads torch only where there is a driver."""
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed, pip install 'qindex[gpu]'"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1)"
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds none"


def gpu() -> str:
    """The GPU that kernels would run on, or why there is none."""
    reason = why_no_gpu()
    if reason is not None:
        return f"none: {reason}"
    import torch

    return torch.cuda.get_device_name()


def dtype(array: Any) -> str:
    """What NumPy calls the dtype of an array or a tensor."""
    return _name(array.dtype)


@functools.cache  # NumPy takes longer to name a dtype than to check all else
def _name(dtype: Any) -> str:
    return str(dtype.name) if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")


def check_place(x: Any, codes: Codes | DeviceCodes) -> None:
    """Raise ValueError unless `x` lies where the codes do: in NumPy, or in a tensor of the same device."""
    if isinstance(codes, DeviceCodes):
        import torch

        if isinstance(x, torch.Tensor) and x.device == codes.device:
            return
        wanted, way_out = f"a tensor on {codes.device}", f"torch.as_tensor(x, device={str(codes.device)!r})"
    else:
        if isinstance(x, np.ndarray):
            return
        wanted, way_out = "a NumPy array on cpu", "x.numpy(force=True), or codes that kernels.to_device moved"
    got = f"{type(x).__name__} on {getattr(x, 'device', 'cpu')}"
    raise ValueError(f"x must be {wanted}, where the codes are, got {got}; pass {way_out}")


def topk(queries: Queries, codes: DeviceCodes, k: int, ids: Any, allow: Any) -> Matches:
    """`kernels.topk`: `ids` and `allow` are NumPy arrays or tensors. Rows that are not allowed are not read."""
    from qindex_kernels.gpu.topk import topk

    ids, allow = codes.moved(ids), None if allow is None else codes.moved(allow)
    columns, max_norm = codes.column_scale, codes.max_norm
    return Matches(*topk(codes.rows, columns, queries.values, queries.offset, ids, allow, int(k), max_norm))


def score_rows(queries: Queries, codes: DeviceCodes, chosen: Any) -> NDArray[np.float32]:
    """`kernels.score_rows` of row numbers int64 (m, r) from 0 on, in NumPy or a tensor."""
    from qindex_kernels.gpu.score_rows import score_rows

    values, offset = codes.in_space(queries.values), codes.moved(queries.offset)
    scores: NDArray[np.float32] = score_rows(codes.rows, values, offset, codes.moved(chosen)).numpy(force=True)
    return scores


def scores(queries: Queries, codes: DeviceCodes) -> NDArray[np.float32]:
    """`kernels.scores`."""
    import torch

    return score_rows(queries, codes, torch.arange(len(codes), device=codes.device).expand(len(queries), -1))


def matmul(x: torch.Tensor, codes: DeviceCodes, activations: Activations) -> torch.Tensor:
    """`kernels.matmul`."""
    from qindex_kernels.gpu.matmul import matmul, matmul_int8

    x = x if codes.column_scale is None else x * codes.column_scale
    if activations == "float32":
        return matmul(codes.rows, x)
    return matmul_int8(codes.rows, x, codes.block if activations == "int8-block" else 0)
