"""The k best rows so far, as a heap whose root is the worst of them. Ties go to the smaller id."""

from qindex_kernels.cpu.simd import peek_i64
from qindex_kernels.cpu.sources import helper


@helper
def is_worse(score, row, other_score, other_row, ids):
    """Whether (score, row) comes after (other_score, other_row) in the ranking. Row -1, an empty place, comes last."""
    if score != other_score:
        return score < other_score
    if row < 0 or other_row < 0:
        return row < other_row
    return peek_i64(ids + 8 * row) > peek_i64(ids + 8 * other_row)


@helper
def replace_worst(scores, kept, score, row, ids):
    """Put a better row in the place of the heap's root, the worst of the k kept so far."""
    k = len(scores)
    at = 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        if child + 1 < k and is_worse(scores[child + 1], kept[child + 1], scores[child], kept[child], ids):
            child += 1
        if not is_worse(scores[child], kept[child], score, row, ids):
            break
        scores[at], kept[at] = scores[child], kept[child]
        at = child
    scores[at], kept[at] = score, row


@helper
def sort_best_first(all_scores, all_kept, ids):
    """Turn each heap into a ranking: the worst of what is left goes to the end of what is left."""
    for i in range(len(all_scores)):
        scores, kept = all_scores[i], all_kept[i]
        for last in range(len(scores) - 1, 0, -1):
            score, row = scores[last], kept[last]
            scores[last], kept[last] = scores[0], kept[0]
            replace_worst(scores[:last], kept[:last], score, row, ids)
