"""Rescoring: shortlists by oversampling or under a guarantee, and two quantizers that share their signs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex import Binary, FlatIndex, Float32, Int8, RaBitQ
from qindex.quantize.stages import for_joined, joined, remainder
from qindex.types import Quantizer

N, DIM = 3000, 96


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """Unit vectors in 60 clusters, so that near ones are hard to tell apart."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, DIM))[rng.integers(0, 60, N)] + 0.7 * rng.standard_normal((N, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors[:200] + 0.02 * np.random.default_rng(1).standard_normal((200, DIM)).astype(np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("fine", [Float32(), Int8(), RaBitQ(4)], ids=repr)
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_a_guaranteed_answer_is_that_of_the_finer_codes(
    bits: int, fine: Quantizer, metric: Any, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors, RaBitQ(bits), rescore=fine, metric=metric)
    everything = index.search(queries, 10, oversample=N)
    found, work = index.search(queries, 10, guarantee=0.999, explain=True)
    different = (np.sort(found.ids) != np.sort(everything.ids)).any(axis=1).mean()
    # RaBitQ(4) behind 5 bits has errors of its own, which no bound of the first stage knows.
    if not (bits == 5 and isinstance(fine, RaBitQ)):
        assert different <= 0.005
        np.testing.assert_array_equal(
            found.scores[found.ids == everything.ids], everything.scores[found.ids == everything.ids]
        )
    assert work.rescored.mean() < {1: 0.6, 2: 0.25, 5: 0.05}[bits] * N
    assert (work.rescored >= 10).all()
    assert (work.scored % N == 0).all()


def test_a_higher_guarantee_rescores_more_rows(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors, RaBitQ(1), rescore=Float32())
    means = [index.search(queries, 10, guarantee=g, explain=True)[1].rescored.mean() for g in (0.5, 0.9, 0.999)]
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_a_guarantee_holds_under_a_filter_and_for_more_rows_than_there_are(
    vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors, RaBitQ(1), rescore=Float32())
    few = np.arange(0, N, 400)
    found = index.search(queries[:5], 10, guarantee=0.999, allow=few)
    exact = FlatIndex.build(vectors, Float32()).search(queries[:5], 10, allow=few)
    np.testing.assert_array_equal(found.ids, exact.ids)
    assert (index.search(queries[:2], N + 5, guarantee=0.999).ids[:, -5:] == -1).all()


def test_explain_counts_what_oversampling_rescores(vectors: NDArray[np.float32]) -> None:
    matches, work = FlatIndex.build(vectors, Binary(), rescore=Int8()).search(
        vectors[:3], 7, oversample=5, explain=True
    )
    assert matches.ids.shape == (3, 7)
    assert work.scored.tolist() == [N] * 3
    assert work.rescored.tolist() == [35] * 3
    assert FlatIndex.build(vectors, Int8()).search(vectors[:2], explain=True)[1].rescored.tolist() == [0, 0]


def test_a_guarantee_that_cannot_be_given_is_refused(vectors: NDArray[np.float32]) -> None:
    for index in (FlatIndex.build(vectors, RaBitQ(1)), FlatIndex.build(vectors, Binary(), rescore=Int8())):
        with pytest.raises(ValueError, match="guarantee needs an index built with RaBitQ"):
            index.search(vectors[:1], guarantee=0.9)
    index = FlatIndex.build(vectors, RaBitQ(1), rescore=Int8())
    with pytest.raises(ValueError, match="either oversample or guarantee"):
        index.search(vectors[:1], guarantee=0.9, oversample=3)
    for wrong in (0.0, 1.0, 1, "0.9", float("nan")):
        with pytest.raises(ValueError, match="guarantee must be a probability"):
            index.search(vectors[:1], guarantee=wrong)  # type: ignore[call-overload]


# --- shared signs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_signs_are_kept_once_and_scores_stay_those_of_the_finer_codes(
    bits: int, metric: Any, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors, RaBitQ(1), rescore=RaBitQ(bits), metric=metric)
    alone = FlatIndex.build(vectors, RaBitQ(bits), metric=metric)
    offsets = 8 if metric == "l2" else 0
    factors = 2 + 2
    assert index.nbytes == N * (
        DIM // 8 + sum(DIM * w // 8 for w in {2: (1,), 3: (2,), 4: (2, 1)}[bits]) + factors + offsets + 8
    )
    found, wanted = index.search(queries, 10, oversample=N), alone.search(queries, 10)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=2e-6)
    assert (found.ids == wanted.ids).mean() > 0.999


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_signs_and_remainder_are_the_whole_code(bits: int, vectors: NDArray[np.float32]) -> None:
    fine = RaBitQ(bits).fit(vectors)
    codes, signs = fine.quantize(vectors), RaBitQ(1).fit(vectors).quantize(vectors)
    rest = remainder(codes, bits)
    whole = 2.0 ** (bits - 2) * signs.levels + (0.5 if bits == 2 else 1) * rest.levels
    np.testing.assert_array_equal(whole, codes.levels)
    rows = joined(signs, rest)
    assert (np.linalg.norm(rows.levels, axis=1) * rest.scales[0].values[:, 0] <= rows.max_norm).all()
    prepared = fine.prepare(vectors[:1])
    np.testing.assert_array_equal(for_joined(prepared, bits).offset, prepared.offset)


def test_shared_signs_survive_changes_and_saving(
    tmp_path: Path, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    fitted = RaBitQ(1).fit(vectors), RaBitQ(4).fit(vectors)
    whole = FlatIndex.build(vectors, fitted[0], rescore=fitted[1])
    index = FlatIndex.build(vectors[:100], fitted[0], rescore=fitted[1])
    index.add(vectors[100:])
    index.save(tmp_path / "index")
    for one in (index, qindex.load(tmp_path / "index", verify=True)):
        for found, wanted in zip(one.search(queries, 5), whole.search(queries, 5), strict=True):
            np.testing.assert_array_equal(found, wanted)
    index.remove(np.arange(50, N))
    np.testing.assert_array_equal(index.search(vectors[:50], 1, oversample=50).ids[:, 0], np.arange(50))


def test_quantizers_with_other_axes_or_another_mean_share_nothing(vectors: NDArray[np.float32]) -> None:
    whole = N * (DIM // 8 + 2 + DIM // 2 + 2 + 8)
    assert FlatIndex.build(vectors, RaBitQ(1), rescore=RaBitQ(4, seed=1)).nbytes == whole
    assert FlatIndex.build(vectors, RaBitQ(1), rescore=RaBitQ(4).fit(vectors[:9])).nbytes == whole
    assert FlatIndex.build(vectors, RaBitQ(1).fit(vectors), rescore=RaBitQ(4)).nbytes < whole


def test_distances_by_unbiased_codes_are_unbiased(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    """Decoded rows are longer than what was coded: with their lengths every distance would be too large."""
    index = FlatIndex.build(vectors, RaBitQ(1), metric="l2")
    found = index.search(queries, N)
    exact = -((queries[:, None, :] - vectors[found.ids[:, ::50]]) ** 2).sum(axis=2)
    error = found.scores[:, ::50] - exact
    assert abs(error.mean()) < 0.05 * error.std()
    with pytest.raises(ValueError, match='"l2" needs vectors'):
        FlatIndex.from_codes(index.quantizer, index.quantizer.quantize(vectors), metric="l2")
