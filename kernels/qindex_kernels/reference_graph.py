"""The kernels of graphs in NumPy: `Walks` find rows, `link` chooses their neighbours. As `reference.py`, for them.

Fast scores are of the int8 query where rows are integers under scales of the whole row, each step in float32:

    score = ((sum * factor * block scale) + zero * (sum of the query * factor)) * scale + bias

without those that rows have not; else they are exact scores without the query's offset.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.layout import Only, Rows, Through
from qindex_kernels.reference import PLANES, SPANS, UNITS, block_scale, levels, quantize, score_rows

KEYS = 8  # so many candidates are looked at, or a multiple

_FLOATS = ("float32", "float16", "e4m3", "e5m2", "e3m4", "e3m2", "nf4")
_INTEGER_KINDS = {kind for kind in PLANES if kind not in (*_FLOATS, *SPANS, "e8m0")}


class Walks:
    """Walks over the neighbours (n, degree) of `rows`, from some entries on; `fine` rows, or the same, rank them."""

    def __init__(
        self,
        rows: Rows,
        fine: Rows,
        neighbours: NDArray[np.int32],
        entries: NDArray[np.int32],
        ids: NDArray[np.int64],
    ) -> None:
        self._over = rows, fine, neighbours, entries, ids

    def __call__(
        self,
        values: NDArray[np.float32],
        fine_values: NDArray[np.float32],
        fine_offset: NDArray[np.float64] | None,
        k: int,
        ef: int,
        ranked: int,
        among: Through | Only | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], bool]:
        """The k best rows that a walk meets for each query: ids (m, k), -1 where there are no more, and exact scores.

        A walk keeps the `ef` best rows it has seen, by fast scores, of equal ones the smaller row. It starts with the
        entries; while some of these rows are not expanded, it expands the best such: sees its neighbours.
        The `ranked` best (at most `ef`) are ranked by exact scores of the `fine` rows, ties to the smaller id.

        `Through` a filter it keeps `width` rows. It ends before a row that `ef` others are better than, if `enough` of
        those that it has seen and that are allowed are better, too; of these, up to `ranked` or `enough` are ranked.

        With k = 0, the `ranked` best rows (m, ranked) and their fast scores instead. Also how many rows were expanded,
        scored and ranked, (3, m), and whether some query has met fewer than k rows, or than are `enough`. No offset
        stands for 0.
        """
        rows, fine, neighbours, entries, ids = self._over
        m, n = len(values), len(rows.data)
        offset = np.zeros(m) if fine_offset is None else fine_offset
        allow, width, enough, most = None, ef, 0, ef
        if isinstance(among, Through):
            allow, width, enough = among
            ranked = most = max(ranked, enough)
        elif among is not None:
            entries = np.flatnonzero(among.allow).astype(np.int32)
        best = np.full((m, k or ranked), -1, np.int64)
        scores = np.full(best.shape, -np.inf, np.float32)
        work = np.zeros((3, m), np.int64)
        for i in range(m):
            seen, expanded = np.zeros(n, bool), np.zeros(n, bool)
            beam = kept = np.empty(0, np.int64)
            following = entries
            while len(following):
                new = np.unique(np.minimum(following.view(np.uint32), n - 1)).astype(np.int64)
                new = new[~seen[new]]
                seen[new] = True
                keys = _keys(fast_scores(rows, values[i], new), new)
                beam = np.sort(np.concatenate([beam, keys]))[:width]
                kept = np.sort(np.concatenate([kept, keys if allow is None else keys[allow[new]]]))[:most]
                work[1, i] += len(new)
                left = np.flatnonzero(~expanded[_rows_of(beam)])[: 0 if isinstance(among, Only) else 1]
                if enough and len(left) and left[0] >= ef and len(kept) >= enough and kept[enough - 1] < beam[left[0]]:
                    break
                chosen = _rows_of(beam[left])
                expanded[chosen] = True
                work[0, i] += len(chosen)
                following = neighbours[chosen].reshape(-1)
            found = _rows_of(kept)[:ranked]
            work[2, i] = len(found)
            if k == 0:
                best[i, : len(found)], scores[i, : len(found)] = found, fast_scores(rows, values[i], found)
                continue
            exact = score_rows(fine, fine_values[i : i + 1], offset[i : i + 1], found[None])[0]
            order = np.lexsort((ids[found], -exact))[:k]
            best[i, : len(order)], scores[i, : len(order)] = ids[found[order]], exact[order]
        return best, scores, work, bool((work[2] < max(k, enough)).any())


def _keys(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers in the order of falling scores, then of rows."""
    bits = scores.view(np.int32)
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (~ordered).astype(np.int64) << 32 | rows << 1


def _rows_of(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    return keys >> 1 & 0x7FFFFFFF


def takes_integers(rows: Rows) -> bool:
    """Whether fast scores are of the int8 query: rows of integers, tables and scales of whole rows."""
    if not {part.kind for part in rows.parts} <= _INTEGER_KINDS:
        return False
    if rows.tables is not None and (rows.tables.ndim == 3 or rows.tables.shape[0] > 1):
        return False
    coarse = rows.levels[1] if len(rows.levels) > 1 else None
    one = coarse is None or (coarse.data.shape == (1,) and coarse.kind == "float32" and rows.zero is None)
    return not rows.block or (rows.block >= rows.dim and one)


def fast_scores(rows: Rows, query: NDArray[np.float32], chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a walk goes by: (dim,) and (r,) row numbers -> (r,)."""
    if not takes_integers(rows):
        exact: NDArray[np.float32] = score_rows(rows, query[None], np.zeros(1), chosen[None])[0]
        return exact
    units = [np.float32(UNITS.get(part.kind, 1.0)) for part in rows.parts]
    of_dims = np.repeat(np.array(units, np.float32), [part.dim for part in rows.parts])
    factor = np.float32(1 if rows.more else units[0])
    codes, step = quantize((query * of_dims if rows.more else query)[None], 0)
    factor *= step[0, 0]
    total = np.float32(codes.sum(dtype=np.int64)) * factor
    integers = np.rint(levels(rows, chosen) / of_dims).astype(np.int64)
    if len(rows.levels) > 1:
        factor *= rows.levels[1].data[0]
    scores: NDArray[np.float32] = (integers @ codes[0].astype(np.int64)).astype(np.float32) * factor
    if rows.levels:
        finest = Rows(rows.kind, rows.dim, rows.data, levels=rows.levels[:1])
        scores = scores * block_scale(finest, chosen)[:, 0]
    if rows.zero is not None:
        zero = Rows(rows.kind, rows.dim, rows.data, levels=(rows.zero,))
        scores = scores + block_scale(zero, chosen)[:, 0] * total
    if rows.scale is not None:
        scores = scores * rows.scale[chosen]
    return scores if rows.bias is None else scores + rows.bias[chosen]


def link(
    rows: Rows,
    norms: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    targets: NDArray[np.int32],
    starts: NDArray[np.int64],
    candidates: NDArray[np.int32],
    degree: int,
    room: int,
    alpha: float,
    equals: int,
    most: int,
    part: slice,
) -> None:
    """Choose the neighbours of some of the targets (t,), distinct rows, and write them into `neighbours` (n, width).

    Target i gets neighbours from those it has and `candidates[starts[i] : starts[i + 1]]`; what is no row is passed
    over, a row's own number stands for no neighbour. If all of them, counted before any repeats are left out, are no
    more than `room`, new candidates follow the neighbours there are. Else the `most` nearest (in whole eights, repeats
    counted) are gone through in the order of their distance, of equal ones the smaller row first, until `degree` are
    taken: one that is at a distance of 0 or less, if `equals` such were met before, is not taken; and after each, those
    are dropped of which `alpha` times the distance from it is less than their distance from the target.

    `rows` are int8 under a scale each, `norms` (n,) their squared lengths. Squared distances, in float32:
    (norm + norm) - 2 * ((scale * scale) * dot). No list but the targets' own is written.
    """
    assert rows.scale is not None
    codes, scale, rounded_alpha = rows.data.view(np.int8), rows.scale, np.float32(alpha)

    def distances(row: int, others: NDArray[np.int64]) -> NDArray[np.float32]:
        dots = (codes[others].astype(np.int64) @ codes[row].astype(np.int64)).astype(np.float32)
        squares: NDArray[np.float32] = (norms[row] + norms[others]) - 2 * ((scale[row] * scale[others]) * dots)
        return squares

    for i in range(part.start, part.stop):
        row, own = int(targets[i]), neighbours[targets[i]]
        new = candidates[starts[i] : starts[i + 1]].astype(np.int64)
        there = own[: int(np.argmax(np.append(own, row) == row))].astype(np.int64)
        if len(there) + len(new) <= room:
            listed = list(there)
            for candidate in new:
                if candidate != row and 0 <= candidate < len(codes) and candidate not in listed:
                    listed.append(candidate)
        else:
            left = np.concatenate([own.astype(np.int64), new])
            left = left[(left != row) & (left >= 0) & (left < len(codes))]
            keys = np.unique(np.sort(_keys(-distances(row, left), left))[: -(-most // KEYS) * KEYS])
            left = _rows_of(keys)
            far = distances(row, left)
            listed, met = [], 0
            while len(left) and len(listed) < degree:
                met += far[0] <= 0
                if far[0] > 0 or met <= equals:
                    listed.append(left[0])
                kept = ~(rounded_alpha * distances(int(left[0]), left[1:]) < far[1:])
                left, far = left[1:][kept], far[1:][kept]
        neighbours[row] = row
        neighbours[row, : len(listed)] = listed
