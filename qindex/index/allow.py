"""The `allow=` filter of every index: from what a user gives to masks over rows."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Allow = ArrayLike | Iterable[ArrayLike]


def allow_masks(allow: Allow | None, ids: NDArray[np.int64], m: int) -> list[NDArray[np.bool_] | None]:
    """One mask over rows for all queries (a list of length 1), or one for each of `m` queries.

    `allow` is a boolean mask aligned with `ids`, or an array of ids (those that the index does not hold are passed
    over), or a list of `m` such. None allows every row.
    """
    if allow is None:
        return [None]
    if isinstance(allow, (list, tuple)) and any(np.ndim(one) for one in allow):
        if len(allow) != m:
            raise ValueError(
                f"allow must be one filter or a list of {m}, one for each query; got a list of {len(allow)}"
            )
        return [_mask(one, ids, f"allow[{i}]") for i, one in enumerate(allow)]
    return [_mask(allow, ids, "allow")]


def per_query(allow: Allow | None, ids: NDArray[np.int64], m: int) -> Callable[[NDArray[np.int64]], Allow | None]:
    """The filter to give with some of `m` queries, by their numbers."""
    masks = allow_masks(allow, ids, m)
    if len(masks) == m > 1:
        return lambda chosen: [masks[i] for i in chosen]
    return lambda chosen: masks[0]


def _mask(allow: Any, ids: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    array = np.asarray(allow)
    if array.size == 0 and array.dtype != np.bool_:
        array = array.astype(np.int64)  # an empty list has no dtype of its own
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise TypeError(f"{name} must be a boolean mask or an array of ids, got {array.dtype} {array.shape}")
    if array.dtype != np.bool_:
        return np.isin(ids, array)
    if len(array) != len(ids):
        raise ValueError(f"{name} must be a mask of length {len(ids)}, aligned with index.ids; got {len(array)}")
    return np.ascontiguousarray(array)
