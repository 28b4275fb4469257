"""How far the outputs of a layer are off with codes for weights."""

import numpy as np
from numpy.typing import NDArray

from qindex.lowbit.solvers.grids import check_dim
from qindex.lowbit.statistics import LayerStatistics
from qindex.quantize.blocks import decode
from qindex.types import Codes, Vectors, as_vectors


def error(weight: Vectors, codes: Codes, statistics: LayerStatistics | None = None) -> float:
    """The relative squared error of the outputs: tr(D H D^T) / tr(W H W^T), where D = W - decoded codes.

    H is the Hessian of the statistics, else their diagonal, else (no statistics, or an unreached layer) the identity.
    Column scales of the codes are counted in. 0 where nothing is lost, and where the outputs are zeros in any case.
    """
    weight = as_vectors(weight, "weight", codes.dim)
    if len(weight) != len(codes):
        raise ValueError(f"codes must have the {len(weight)} rows of weight, got {len(codes)}")
    if statistics is not None:
        check_dim(statistics, codes.dim)
    off = weight.astype(np.float64) - decode(codes)
    lost, whole = _energy(off, statistics), _energy(weight.astype(np.float64), statistics)
    return lost / whole if whole > 0 else (0.0 if lost == 0 else float("inf"))


def _energy(rows: NDArray[np.float64], statistics: LayerStatistics | None) -> float:
    if statistics is None or not statistics.count:
        return float(np.vdot(rows, rows))
    if statistics.hessian is None:
        return float(np.einsum("ij,ij,j->", rows, rows, statistics.diagonal))
    return float(np.vdot(rows @ statistics.hessian, rows))
