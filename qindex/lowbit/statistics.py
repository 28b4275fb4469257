"""What calibration text tells of the inputs of each layer: sums that parts of a text add up to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.types import Vectors, as_vectors


@register("LayerStatistics")
@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Sums over the `count` inputs x, (dim,) each, that a layer has seen.

    A dead channel has a diagonal of 0; a layer that nothing reached has a count of 0.
    """

    count: int  # tokens
    diagonal: NDArray[np.float64]  # (dim,): the sum of x * x
    largest: NDArray[np.float32]  # (dim,): the largest |x|
    hessian: NDArray[np.float64] | None = None  # (dim, dim): the sum of outer(x, x); None for layers too wide

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 0:
            raise ValueError(f"count must be an integer, 0 or more, got {self.count!r}")
        dim = len(self.diagonal)
        arrays: list[tuple[str, NDArray[Any], str, tuple[int, ...]]] = [
            ("diagonal", self.diagonal, "float64", (dim,)),
            ("largest", self.largest, "float32", (dim,)),
        ]
        if self.hessian is not None:
            arrays.append(("hessian", self.hessian, "float64", (dim, dim)))
        for name, array, dtype, shape in arrays:
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, but holds NaN or infinity: collect the statistics anew")
        if dim == 0 or self.diagonal.min() < 0:
            raise ValueError("diagonal must be of at least one channel, and none of its sums negative")

    @property
    def dim(self) -> int:
        return len(self.diagonal)

    def merged(self, other: "LayerStatistics") -> "LayerStatistics":
        """Those of both parts of a text. The Hessian is kept where both have one."""
        if self.dim != other.dim:
            raise ValueError(f"other must be statistics of {self.dim} channels, got {other.dim}")
        hessian = None
        if self.hessian is not None and other.hessian is not None:
            hessian = self.hessian + other.hessian
        return LayerStatistics(
            self.count + other.count,
            self.diagonal + other.diagonal,
            np.maximum(self.largest, other.largest),
            hessian,
        )


@register("Statistics")
@dataclass(frozen=True, eq=False)
class Statistics(Mapping[str, LayerStatistics]):
    """The statistics of layers by their names. `qindex.io.save` and `load` keep them."""

    names: tuple[str, ...] = ()
    layers: tuple[LayerStatistics, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or len(self.names) != len(self.layers):
            raise ValueError(
                f"names must be unique, one for each of {len(self.layers)} layers, got {len(self.names)}, of which "
                f"{len(set(self.names))} differ"
            )

    def __getitem__(self, name: str) -> LayerStatistics:
        try:
            return self.layers[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def merge(self, other: "Statistics") -> "Statistics":
        """Those of two texts, or of two parts of one: as collected at once, up to float64 rounding."""
        layers = dict(self)
        for name, layer in other.items():
            layers[name] = layers[name].merged(layer) if name in layers else layer
        return Statistics(tuple(layers), tuple(layers.values()))


class Collector:
    """Adds up the statistics of layers while text streams through a network.

    Memory is bounded: float64 (dim, dim) for each layer of up to `max_dim` channels, two rows for wider ones. Not to be
    used by several threads at once: give each a collector, and merge what they took.
    """

    def __init__(self, max_dim: int = 8192) -> None:
        if type(max_dim) is not int or max_dim < 0:
            raise ValueError(f"max_dim must be an integer, 0 or more, got {max_dim!r}")
        self._max_dim = max_dim
        self._sums: dict[str, _Sums] = {}

    def add(self, layer: str, x: Vectors) -> None:
        """Take (m, dim) float inputs of a layer. ValueError names it if they are not finite, or of another dim."""
        known = self._sums.get(layer)
        x = as_vectors(x, f"inputs of layer {layer}", None if known is None else len(known.diagonal))
        self._sums.setdefault(layer, _Sums(x.shape[1], self._max_dim)).add(x)

    def take(self) -> Statistics:
        """All that was added since the last `take`; the collector begins anew."""
        sums, self._sums = self._sums, {}
        return Statistics(
            tuple(sums),
            tuple(LayerStatistics(each.count, each.diagonal, each.largest, each.hessian) for each in sums.values()),
        )


class _Sums:
    """Those of one layer, changed in place."""

    def __init__(self, dim: int, max_dim: int) -> None:
        self.count = 0
        self.diagonal = np.zeros(dim)
        self.largest = np.zeros(dim, np.float32)
        self.hessian = np.zeros((dim, dim)) if dim <= max_dim else None

    def add(self, x: Vectors) -> None:
        exact = x.astype(np.float64)
        self.count += len(x)
        self.diagonal += np.einsum("ij,ij->j", exact, exact)
        np.maximum(self.largest, np.abs(x).max(axis=0, initial=0), out=self.largest)
        if self.hessian is not None:
            self.hessian += exact.T @ exact
