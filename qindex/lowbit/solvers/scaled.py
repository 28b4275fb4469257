"""AWQ: input channels that carry much are scaled up before the weights are rounded."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FLOAT32
from qindex.io import register
from qindex.lowbit.solvers.error import error
from qindex.lowbit.solvers.gptq import GPTQ
from qindex.lowbit.solvers.grids import check_dim
from qindex.lowbit.solvers.hqq import HQQ
from qindex.lowbit.solvers.nearest import Nearest
from qindex.lowbit.statistics import LayerStatistics
from qindex.quantize.blocks import Scheme
from qindex.types import BlockValues, Codes, Vectors, as_vectors

_POWERS = np.linspace(0, 1, 20)
_LEAST = 1e-4  # of the size of the largest channel


@register("Scaled")
@dataclass(frozen=True)
class Scaled:
    """Activation-aware scaling (AWQ, arXiv 2306.00978): codes of weight * t, and column scales 1 / t beside them.

    The factor t of a channel is a power of the root mean square of its inputs, out of 20 powers from 0 to 1 the one
    with the least error of the outputs; the factors are normalised so that the largest is as far above 1 as the
    smallest is below. Dead channels have a factor of 1. `inner` chooses the codes, with the statistics of the scaled
    inputs.

    The column scales take 32 bits for each input channel, and kernels multiply the inputs with them.
    """

    inner: Nearest | HQQ | GPTQ = field(default_factory=lambda: Nearest(clip=True))

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Nearest | HQQ | GPTQ):
            raise TypeError(f"inner must be Nearest, HQQ or GPTQ, got {self.inner!r}")

    def solve(self, weight: Vectors, scheme: Scheme, statistics: LayerStatistics | None = None, /) -> Codes:
        """Codes of (n, dim) float32. ValueError without statistics."""
        weight = as_vectors(weight, "weight", nonempty=True)
        if statistics is None or not statistics.count:
            raise ValueError(
                "statistics must be given for Scaled, got none: calibrate with text that reaches the layer, or choose "
                "Nearest or HQQ"
            )
        check_dim(statistics, weight.shape[1])
        tried = (self._codes(weight, scheme, statistics, float(power)) for power in _POWERS)
        return min(tried, key=lambda codes: error(weight, codes, statistics))

    def _codes(self, weight: Vectors, scheme: Scheme, statistics: LayerStatistics, power: float) -> Codes:
        factors = _factors(statistics, power)
        codes = self.inner.solve(weight * factors, scheme, _scaled(statistics, factors))
        columns = BlockValues(1 / factors, FLOAT32, 1)
        return dataclasses.replace(codes, scales=(*codes.scales, columns))


def _factors(statistics: LayerStatistics, power: float) -> NDArray[np.float32]:
    """(dim,) of the channels."""
    sizes = np.sqrt(statistics.diagonal / statistics.count)
    live = statistics.diagonal > 0
    # A channel that hardly carries anything counts as one that carries a little, so that no factor is beyond float16.
    powers = np.maximum(sizes, _LEAST * sizes.max()) ** power
    if live.any():
        powers /= np.sqrt(powers[live].min() * powers[live].max())
    return np.where(live, powers, 1).astype(np.float32)


def _scaled(statistics: LayerStatistics, factors: NDArray[np.float32]) -> LayerStatistics:
    """The statistics of inputs that are divided by the factors."""
    exact = factors.astype(np.float64)
    hessian = statistics.hessian
    return LayerStatistics(
        statistics.count,
        statistics.diagonal / exact**2,
        statistics.largest / factors,
        None if hessian is None else hessian / np.outer(exact, exact),
    )
