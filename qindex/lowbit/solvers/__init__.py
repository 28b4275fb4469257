"""Solvers: how the codes of a weight matrix are chosen. They work for any scheme, and know no format.

    solver.solve(weight, scheme, statistics=None) -> Codes

`weight` is float32 (n, dim), its rows the output channels. `Nearest` and `HQQ` choose a grid for each block, and round
to its levels; `GPTQ` and `Scaled` do more, around one of them.
"""

from qindex.lowbit.solvers.error import error
from qindex.lowbit.solvers.gptq import GPTQ
from qindex.lowbit.solvers.grids import Solver
from qindex.lowbit.solvers.hqq import HQQ
from qindex.lowbit.solvers.nearest import Nearest
from qindex.lowbit.solvers.scaled import Scaled

__all__ = ["GPTQ", "HQQ", "Nearest", "Scaled", "Solver", "error"]
