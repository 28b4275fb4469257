"""What every index checks of ids and counts that it is given."""

import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_ID = int(np.iinfo(np.int64).max)


def as_count(value: int, name: str) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
    return count


def as_integers(ids: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(f"ids must be a one-dimensional array of integers, got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def as_ids(ids: ArrayLike | None, n: int, next_id: int) -> NDArray[np.int64]:
    """`n` distinct ids: those given, or the `n` that follow."""
    if ids is None:
        if next_id + n > MAX_ID + 1:
            raise ValueError(f"ids must be given: after {next_id - 1}, the largest so far, there are none left for {n}")
        return np.arange(next_id, next_id + n)
    return distinct_ids(ids, n)


def distinct_ids(ids: ArrayLike, n: int) -> NDArray[np.int64]:
    """`n` distinct ids."""
    array = as_integers(ids)
    if len(array) != n:
        raise ValueError(f"ids must be one for each of {n} vectors, got {len(array)}")
    if n and array.min() < 0:
        raise ValueError(f"ids must not be negative, got {array.min()}")
    values, counts = np.unique(array, return_counts=True)
    if len(values) < n:
        raise ValueError(f"ids must be distinct, but {listed(values[counts > 1])} come more than once")
    return array


def new_ids(ids: ArrayLike | None, n: int, next_id: int, held: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same, none of which is among those `held`."""
    array = as_ids(ids, n, next_id)
    if ids is not None:  # those that follow the last are new
        known = array[np.isin(array, held)]
        if len(known):
            raise ValueError(f"ids must be new, but the index holds {listed(known)}; remove them first")
    return array


def held_ids(ids: ArrayLike, held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids to remove, all of them among those `held`."""
    gone = as_integers(ids)
    missing = gone[~np.isin(gone, held)]
    if len(missing):
        raise ValueError(f"ids must be held by the index, but it does not hold {listed(missing)}")
    return gone


def listed(ids: NDArray[np.int64]) -> str:
    some = ", ".join(str(one) for one in ids[:5])
    return some if len(ids) <= 5 else f"{some} and {len(ids) - 5} more"
