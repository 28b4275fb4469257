"""Bits where they matter most: how a budget is shared out among axes, prefixes, layers, or whatever has a choice.

`water_fill` shares the bytes of a row out along axes of known variance. `allocate` takes measured losses, of anything.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex.formats import PLANES
from qindex.quantize.gaussian import uniform_error

# Axes get their bits in eights, of which each bit takes one byte: no plane of a packed row is filled up.
GRAIN = 8


def water_fill(energies: ArrayLike, budget: int) -> NDArray[np.int64]:
    """The bits of each axis, 0 to 8, that leave the least error in rows of `budget` bytes: (dim,) -> (dim,).

    `energies` are the variances of the axes, or variances times what an error of the axis weighs, largest first: an
    axis of `b` bits leaves `energy * uniform_error(b)`. Eight axes in a row share their bits, and so do the last
    `dim % 8`. No other such choice leaves less (reverse water-filling), and the rows take `budget` bytes, no less.

    Raises ValueError for a budget below one byte or beyond `dim`, where every axis has 8 bits.
    """
    energies = np.asarray(energies, np.float64)
    if energies.ndim != 1 or len(energies) == 0 or not np.isfinite(energies).all() or energies.min() < 0:
        raise ValueError(f"energies must be (dim,) finite numbers, none of them negative, got {energies!r}")
    if np.any(np.diff(energies) > 0):
        raise ValueError("energies must be in descending order: sort the axes by them")
    dim = len(energies)
    if not 1 <= budget <= dim:
        raise ValueError(f"budget must be from 1 byte to {dim}, which is 8 bits for each of {dim} axes, got {budget}")
    eights, rest = divmod(dim, GRAIN)
    in_eights = energies[: eights * GRAIN].reshape(eights, GRAIN).sum(axis=1)
    errors = _errors()
    gains = in_eights[:, None] * -np.diff(errors)
    # Each bit gains less than the one before it, and each costs a byte: the best are the largest.
    steps = np.argsort(-gains, axis=None, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum(gains.ravel()[steps])])
    # What the last axes leave to the others must be what these can take.
    left = {bits: budget - packed_bytes(bits, rest) for bits in range(9)}
    possible = [bits for bits in left if 0 <= left[bits] <= len(steps)]
    last = max(possible, key=lambda bits: gained[left[bits]] - energies[eights * GRAIN :].sum() * errors[bits])
    taken = np.bincount(steps[: left[last]] // 8, minlength=eights)
    return np.concatenate([np.repeat(taken, GRAIN), np.full(rest, last)]).astype(np.int64)


def packed_bytes(bits: int, count: int) -> int:
    """Bytes that `count` packed numbers of `bits` bits take, each plane filled up to a byte; 0 bits take none."""
    return sum(-(-count * width // 8) for width in PLANES.get(bits, ()))


def allocate(losses: ArrayLike, costs: ArrayLike, budget: int) -> NDArray[np.int64]:
    """The choice of each item, (items,), that makes the sum of losses least while the costs sum to at most `budget`.

    `losses` (items, choices) are floats in any one unit, as measured; infinity rules a choice out. `costs` (items,
    choices) are integers, such as bytes. An item may be anything whose loss adds to that of the others: a group of
    axes, the dimensions between two Matryoshka prefixes, a layer of a language model. Exact, by integer programming.

    Raises ValueError that names the item that has no choice left, or by how much the budget falls short.
    """
    losses, costs = np.asarray(losses, np.float64), np.asarray(costs)
    if losses.ndim != 2 or 0 in losses.shape or np.isnan(losses).any() or (losses == -np.inf).any():
        raise ValueError(f"losses must be (items, choices) numbers or infinity, got {losses!r}")
    if costs.shape != losses.shape or costs.dtype.kind not in "iu" or costs.min() < 0:
        raise ValueError(
            f"costs must be integers {losses.shape} as losses are, none of them negative, got "
            f"{costs.dtype} {costs.shape}"
        )
    allowed = np.isfinite(losses)
    if not allowed.any(axis=1).all():
        item = int(np.argmin(allowed.any(axis=1)))
        raise ValueError(f"losses must leave each item a choice, but those of item {item} are all infinite")
    costs = costs.astype(np.int64)
    cheapest = np.where(allowed, costs, np.iinfo(np.int64).max).min(axis=1)
    if budget < cheapest.sum():
        item = int(np.argmax(cheapest))
        raise ValueError(
            f"budget must be at least {cheapest.sum()}, the cheapest choices of all items together (item {item} alone "
            f"takes {cheapest[item]}), got {budget}"
        )
    return _solved(losses, costs - cheapest[:, None], int(budget - cheapest.sum()), allowed)


def _solved(
    losses: NDArray[np.float64], costs: NDArray[np.int64], budget: int, allowed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """`costs` are those above the cheapest choice of each item, which leave `budget`."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # importing qindex stays light
    from scipy.sparse import block_diag, csr_array

    items, choices = losses.shape
    # The solver's tolerances are absolute: small whole costs, and losses of moderate size.
    unit = max(1, int(np.gcd.reduce(costs[allowed])))
    least = np.where(allowed, losses, np.inf).min(axis=1, keepdims=True)
    above = np.where(allowed, losses - least, 0)
    above *= 1e3 / above.max() if above.max() > 0 else 1
    found = milp(
        above.ravel(),
        integrality=1,
        bounds=Bounds(0, allowed.ravel().astype(float)),
        constraints=[
            LinearConstraint(csr_array(np.where(allowed, costs // unit, 0).reshape(1, -1)), ub=budget // unit),
            LinearConstraint(block_diag([np.ones((1, choices))] * items, format="csr"), 1, 1),
        ],
        options={"mip_rel_gap": 0},
    )
    chosen: NDArray[np.int64] = found.x.reshape(items, choices).argmax(axis=1)
    return chosen


@functools.cache
def _errors() -> NDArray[np.float64]:
    return np.array([1.0, *(uniform_error(bits) for bits in range(1, 9))])
