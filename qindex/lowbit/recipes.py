"""Recipes: what becomes of a weight matrix, and how its layer is multiplied."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from qindex.formats import FLOAT16, FLOAT32, INT2, INT3, INT4, TABLE2, TABLE3, TABLE4, Format
from qindex.io import register
from qindex.kernels import has_integers
from qindex.lowbit.solvers import GPTQ, HQQ, Nearest, Scaled
from qindex.lowbit.statistics import LayerStatistics
from qindex.quantize import Float16, Float32
from qindex.quantize.blocks import SCHEMES, Scheme
from qindex.quantize.lloyd_max import table
from qindex.types import Codes, Vectors


@register("Recipe")
@dataclass(frozen=True)
class Recipe:
    """A scheme, the solver that chooses its codes, and what inputs are rounded to before they meet them.

    `scheme` may be float32 or float16 itself, which keeps the weights as they are and takes no solver.
    """

    scheme: Scheme | Format
    solver: Nearest | HQQ | GPTQ | Scaled | None = field(default_factory=HQQ)
    activations: Literal["float32", "int8", "int8-block"] = "float32"  # as `kernels.matmul` takes them

    def __post_init__(self) -> None:
        kept = isinstance(self.scheme, Format)
        if not isinstance(self.scheme, Scheme) and self.scheme not in (FLOAT32, FLOAT16):
            raise ValueError(f"scheme must be a Scheme, float32 or float16, got {self.scheme!r}")
        if kept != (self.solver is None) or not isinstance(self.solver, Nearest | HQQ | GPTQ | Scaled | None):
            wanted = "None where weights are kept as floats" if kept else "Nearest, HQQ, GPTQ or Scaled"
            raise ValueError(f"solver must be {wanted}, got {self.solver!r}")
        if self.activations not in ("float32", "int8", "int8-block"):
            raise ValueError(f'activations must be "float32", "int8" or "int8-block", got {self.activations!r}')
        if self.activations != "float32" and not has_integers(self.format.name):
            raise ValueError(f'activations must be "float32" for {self.format.name} codes, got {self.activations!r}')
        if self.activations == "int8-block" and not (isinstance(self.scheme, Scheme) and self.scheme.block):
            raise ValueError('activations must be "int8" for codes without blocks, got "int8-block"')

    @property
    def format(self) -> Format:
        """Of the weights."""
        return self.scheme if isinstance(self.scheme, Format) else self.scheme.format

    def with_solver(self, solver: Nearest | HQQ | GPTQ | Scaled) -> "Recipe":
        """The same format, with codes chosen by `solver`; floats stay as they are."""
        return self if self.solver is None else dataclasses.replace(self, solver=solver)

    def quantize(self, weight: Vectors, statistics: LayerStatistics | None = None) -> Codes:
        """The codes of (n, dim) weights. ValueError where the solver needs statistics that are not given."""
        if isinstance(self.scheme, Scheme) and self.solver is not None:
            return self.solver.solve(weight, self.scheme, statistics)
        return (Float16() if self.scheme == FLOAT16 else Float32()).quantize(weight)

    def bits_per_weight(self, n: int, dim: int) -> float:
        """What a weight of an (n, dim) matrix takes, everything counted: scales, zeros, tables and column scales."""
        if n < 1 or dim < 1:
            raise ValueError(f"n and dim must be positive, got {n} and {dim}")
        if isinstance(self.scheme, Format):
            return float(self.scheme.bits)
        columns = 4 * dim if isinstance(self.solver, Scaled) else 0
        return 8 * (self.scheme.nbytes(n, dim) + columns) / (n * dim)


def _lloyd_max(format: Format) -> Scheme:
    """The levels that are best for normal numbers, in groups: as the quantizer LloydMax has them."""
    return Scheme(format, 64, FLOAT16, table=tuple(table(format.bits).tolist()))


# Bits a weight, of (1536, 384): see the table in tests/lowbit/test_recipes.py.
RECIPES = {
    "float32": Recipe(FLOAT32, None),
    "float16": Recipe(FLOAT16, None),
    "int8": Recipe(SCHEMES["int8"], activations="int8"),
    "int4": Recipe(Scheme(INT4, 64, FLOAT16, affine=True), activations="int8-block"),
    "int3": Recipe(Scheme(INT3, 64, FLOAT16, affine=True), activations="int8-block"),
    "int2": Recipe(Scheme(INT2, 64, FLOAT16, affine=True), activations="int8-block"),
    "nf4": Recipe(SCHEMES["nf4dq"], activations="int8-block"),
    "mxint8": Recipe(SCHEMES["mxint8"], activations="int8-block"),
    "mxfp4": Recipe(SCHEMES["mxfp4"], activations="int8-block"),
    "lloydmax4": Recipe(_lloyd_max(TABLE4), activations="int8-block"),
    "lloydmax3": Recipe(_lloyd_max(TABLE3), activations="int8-block"),
    "lloydmax2": Recipe(_lloyd_max(TABLE2), activations="int8-block"),
}
