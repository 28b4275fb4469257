"""Coded rows on a GPU, and the two halves that a kernel takes them in: pointers, and what it is compiled for.

Layouts are those of the CPU: packed rows one behind the other, numbers of blocks beside them, as stored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from qindex_kernels import reference
from qindex_kernels.gpu.launch import Ready, ready, signature
from qindex_kernels.layout import Level, Rows


class Decoder(NamedTuple):
    """How the codes of a format become numbers. One family of kernels serves all formats of a family and a width."""

    bits: int
    family: str  # grid, e2m1, table or small_float
    unit: float = 1.0  # a level is this many times the integer, or the float16, that the code is turned into
    step: int = 1  # of a grid: integer = step * code + low
    low: int = 0
    shift: int = 0  # of a small float: where its magnitude lies in a float16
    exact: bool = True  # whether levels are bfloat16 numbers


DECODERS = {
    "sign": Decoder(1, "grid", step=2, low=-1),
    "int4": Decoder(4, "grid", low=-8),
    "half4": Decoder(4, "grid", unit=0.5, step=2, low=-15),
    "int8": Decoder(8, "grid"),
    "e2m1": Decoder(4, "e2m1", unit=0.5),
    "nf4": Decoder(
        4, "table", unit=reference.UNITS["nf4"], exact=False
    ),  # of its integers; the table itself holds its levels
    "table4": Decoder(4, "table"),
    "e4m3": Decoder(8, "small_float", unit=2.0**8, shift=7),
    "e5m2": Decoder(8, "small_float", shift=8),
    "e3m4": Decoder(8, "small_float", unit=2.0**12, shift=6),
}


NF4_INTEGERS = np.rint(reference.LEVELS["nf4"] / reference.UNITS["nf4"]).astype(np.int8)


class Pointers(NamedTuple):
    """What a kernel reads rows from: tensors and strides, None where there is nothing."""

    data: torch.Tensor
    n: int
    dim: int
    row_bytes: int
    scale: torch.Tensor | None
    bias: torch.Tensor | None
    level0: torch.Tensor | None
    level0_stride: int  # from row to row; 0 where all rows share the numbers
    level1: torch.Tensor | None
    level1_stride: int
    zero: torch.Tensor | None
    zero_stride: int
    table: torch.Tensor | None


class Form(NamedTuple):
    """What a kernel that reads rows is compiled for."""

    bits: int
    family: str
    unit: float
    step: int
    low: int
    shift: int
    exact: bool
    block: int  # 0: no blocks
    level0: str  # how numbers are stored, "" where there are none
    level1: str
    size1: int  # of a block of level1
    zero: str


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """`layout.Rows` as torch tensors of one device; the fields mean the same."""

    kind: str  # one of DECODERS
    dim: int
    data: torch.Tensor  # uint8 (n, row_bytes)
    scale: torch.Tensor | None = None  # float32 (n,)
    bias: torch.Tensor | None = None  # float32 (n,)
    levels: tuple[Level, ...] = ()  # of tensors: float32, float16, or uint8 codes of e4m3 or e8m0
    zero: Level | None = None
    table: torch.Tensor | None = None  # (16,) levels of all rows: float32 of nf4, int8 of table4
    max_scale: float = 1.0  # the largest magnitude in `scale`
    max_bias: float = 0.0  # and in `bias`

    @cached_property
    def n(self) -> int:
        return len(self.data)

    @cached_property
    def block(self) -> int:
        """Dimensions that share a scale and a zero; 0 where there are no blocks."""
        finest = self.levels[0] if self.levels else self.zero
        return 0 if finest is None else finest.size

    @cached_property
    def pointers(self) -> Pointers:
        """The run-time half. It and the other half are asked for at every launch."""

        def one(level: Level | None) -> tuple[Any, int]:
            return (None, 0) if level is None else (level.data, level.data.shape[1] if level.data.ndim == 2 else 0)

        finest, coarser = (*self.levels, None, None)[:2]
        return Pointers(
            self.data, self.n, self.dim, self.data.shape[1], self.scale, self.bias,
            *one(finest), *one(coarser), *one(self.zero), self.table,
        )  # fmt: skip

    @cached_property
    def form(self) -> Form:
        """The compile-time half."""
        finest, coarser = (*self.levels, None, None)[:2]
        return Form(
            *DECODERS[self.kind],
            block=self.block,
            level0="" if finest is None else finest.kind,
            level1="" if coarser is None else coarser.kind,
            size1=0 if coarser is None else coarser.size,
            zero="" if self.zero is None else self.zero.kind,
        )

    @cached_property
    def compiled(self) -> Ready:
        """Launches that take such rows."""
        numbers = [(one == 1, one % 16 == 0, one >> 31) for one in self.pointers if isinstance(one, int)]
        return ready(self.data.device, self.dim, self.form, *numbers, *map(signature, self.pointers))

    @cached_property
    def of_integers(self) -> DeviceRows:
        """The same rows, with levels that are integers: nf4's are rounded, as reference.UNITS says."""
        if self.kind != "nf4":
            return self
        return dataclasses.replace(self, table=moved(NF4_INTEGERS, self.data.device))


def moved(array: Any, device: torch.device | str) -> torch.Tensor:
    """A NumPy array or a tensor as a tensor of the device; shares memory where it can."""
    if isinstance(array, torch.Tensor):
        return array.to(device)
    # torch takes no read-only arrays, such as those of a mapped file.
    return torch.from_numpy(np.require(array, requirements="CW")).to(device)


def to_device(rows: Rows, device: torch.device | str) -> DeviceRows:
    """Copy rows to a device. ValueError for a format that has no GPU kernel."""
    if rows.kind not in DECODERS:
        raise ValueError(
            f"rows must be of a format that has a GPU kernel ({', '.join(DECODERS)}), got {rows.kind}; "
            "search them on the CPU, or quantize to one of these"
        )
    if rows.tables is not None and rows.tables.size != 16:
        raise ValueError(
            f"tables must be one of 16 levels that all rows share, got {rows.tables.shape}; "
            "rows with tables of their own are searched on the CPU"
        )

    def moved_level(level: Level) -> Level:
        return level._replace(data=moved(level.data, device))

    def largest(array: Any, of_none: float) -> float:
        return of_none if array is None or not len(array) else float(np.abs(array).max())

    table = reference.LEVELS["nf4"].astype(np.float32) if rows.kind == "nf4" else rows.tables
    return DeviceRows(
        kind=rows.kind,
        dim=rows.dim,
        data=moved(rows.data, device),
        scale=None if rows.scale is None else moved(rows.scale, device),
        bias=None if rows.bias is None else moved(rows.bias, device),
        levels=tuple(moved_level(level) for level in rows.levels),
        zero=None if rows.zero is None else moved_level(rows.zero),
        table=None if table is None else moved(table.reshape(16), device),
        max_scale=largest(rows.scale, 1.0),
        max_bias=largest(rows.bias, 0.0),
    )
