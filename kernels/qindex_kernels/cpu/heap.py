"""The k best so far, as heaps whose root is the worst of them: of scores alone, or of rows with their scores.

Heaps lie at addresses: float32 scores, and int64 rows. Row -1, an empty place, comes last; ties go to the smaller id.
"""

from qindex_kernels.cpu.simd import peek_f32, peek_i64, poke_f32, poke_i64
from qindex_kernels.cpu.sources import helper, inlined


@inlined
def is_worse(score, row, other_score, other_row, ids):
    """Whether (score, row) comes after (other_score, other_row) in the ranking; without `ids`, rows are their own."""
    if score != other_score:
        return score < other_score
    if row < 0 or other_row < 0:
        return row < other_row
    if ids == 0:
        return row > other_row
    return peek_i64(ids + 8 * row) > peek_i64(ids + 8 * other_row)


@helper
def holds(kept, k, row):
    """Whether a row is in a heap of k."""
    found = False
    for at in range(k):
        found |= peek_i64(kept + 8 * at) == row
    return found


@helper
def replace_worst(scores, kept, k, score, row, ids):
    """Put a better row in the place of the root of a heap of k."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        child_score, child_row = peek_f32(scores + 4 * child), peek_i64(kept + 8 * child)
        if child + 1 < k:
            other_score, other_row = peek_f32(scores + 4 * child + 4), peek_i64(kept + 8 * child + 8)
            if is_worse(other_score, other_row, child_score, child_row, ids):
                child, child_score, child_row = child + 1, other_score, other_row
        if not is_worse(child_score, child_row, score, row, ids):
            break
        poke_f32(scores + 4 * at, child_score)
        poke_i64(kept + 8 * at, child_row)
        at = child
    poke_f32(scores + 4 * at, score)
    poke_i64(kept + 8 * at, row)


@helper
def replace_smallest(scores, k, score):
    """Put a larger score in the place of the root of a heap of k scores."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        child_score = peek_f32(scores + 4 * child)
        if child + 1 < k and peek_f32(scores + 4 * child + 4) < child_score:
            child += 1
            child_score = peek_f32(scores + 4 * child)
        if not child_score < score:
            break
        poke_f32(scores + 4 * at, child_score)
        at = child
    poke_f32(scores + 4 * at, score)


@helper
def sort_best_first(scores, kept, k, ids):
    """Turn a heap into a ranking: the worst of what is left goes to the end of what is left."""
    for last in range(k - 1, 0, -1):
        score, row = peek_f32(scores + 4 * last), peek_i64(kept + 8 * last)
        poke_f32(scores + 4 * last, peek_f32(scores))
        poke_i64(kept + 8 * last, peek_i64(kept))
        replace_worst(scores, kept, last, score, row, ids)
