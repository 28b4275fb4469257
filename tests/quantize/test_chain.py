"""Chain: transforms and a quantizer are one quantizer, for every index and metric."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import qindex
from qindex import io, kernels
from qindex.index import FlatIndex
from qindex.index.flat import Metric
from qindex.quantize import Binary, Chain, Float8, Float16, Float32, Int8
from qindex.transform import PCA, Center, Rotation, Standardize, Truncate, Whiten
from qindex.types import Quantizer

CHAINS = [
    Chain(Center(), Int8()),
    Chain(Standardize(), Int8("dim")),
    Chain(Rotation(), Binary(center=True)),
    Chain(Whiten(), Float8("e4m3")),
    Chain(PCA(kept=0.7), Float16()),
    Chain(Truncate(1), Float32()),
    Chain(Center(), Rotation(seed=3), Standardize(), PCA(kept=0.9), Int8()),
]
SAME = [Chain(Standardize(queries="same"), Float32()), Chain(Rotation(), Whiten(queries="same"), Float32())]
every_chain = pytest.mark.parametrize("chain", CHAINS, ids=repr)
every_metric = pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])

few = settings(deadline=None, max_examples=30, derandomize=True)
numbers = st.floats(-100, 100, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 2.0**-20])
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=numbers)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((200, 20)) @ rng.standard_normal((20, 20)) / 5 + rng.standard_normal(20)).astype(
        np.float32
    )


# --- a quantizer -----------------------------------------------------------------------------------------------------


@every_chain
@given(vectors=matrices, data=st.data())
@few
def test_scores_are_those_of_the_decoded_vectors(chain: Chain, vectors: NDArray[np.float32], data: Any) -> None:
    queries = data.draw(hnp.arrays(np.float32, (2, vectors.shape[1]), elements=numbers))
    fitted = chain.fit(vectors)
    codes = fitted.quantize(vectors)
    decoded = fitted.dequantize(codes).astype(np.float64)
    assert decoded.shape == vectors.shape
    found = kernels.scores(fitted.prepare(queries), codes)
    reach = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * (np.abs(vectors).max() + 1)
    tolerance = 1e-5 * reach * vectors.shape[1] + 1e-30
    assert np.all(np.abs(found - queries.astype(np.float64) @ decoded.T) <= tolerance)


@every_chain
def test_it_follows_the_protocol_and_counts_the_codes_it_makes(chain: Chain, vectors: NDArray[np.float32]) -> None:
    fitted = chain.fit(vectors)
    assert isinstance(chain, Quantizer)
    assert fitted.fitted
    codes = fitted.quantize(vectors)
    assert codes.nbytes == 200 * fitted.bytes_per_vector(20)
    assert fitted.dequantize(fitted.quantize(vectors[:0])).shape == (0, 20)
    with pytest.raises(ValueError, match=r"vectors must be \(n, 20\), got \(200, 7\)|dim must be"):
        fitted.quantize(vectors[:, :7])


def test_bytes_are_known_before_fit_unless_the_data_decide() -> None:
    assert Chain(PCA(dim=192), Float8()).bytes_per_vector(384) == 192
    assert Chain(Truncate(64), Int8()).bytes_per_vector(384) == 68
    with pytest.raises(ValueError, match="PCA must be fitted before use"):
        Chain(PCA(kept=0.9), Float8()).bytes_per_vector(384)
    with pytest.raises(ValueError, match=r"dim must be at least 192 for PCA.*, got 100"):
        Chain(PCA(dim=192), Float8()).bytes_per_vector(100)


def test_many_rows_are_quantized_as_a_few_at_a_time_are() -> None:
    vectors = np.random.default_rng(0).standard_normal((9000, 6)).astype(np.float32)
    chain = Chain(Standardize(), Rotation(), Int8()).fit(vectors)
    whole = chain.quantize(vectors)
    for start in (0, 4095, 8999):
        part = chain.quantize(vectors[start : start + 700])
        np.testing.assert_array_equal(part.data, whole.data[start : start + 700])
        np.testing.assert_array_equal(part.scale, whole.scale[start : start + 700])  # type: ignore[index,arg-type]


def test_each_step_is_fitted_to_what_the_steps_before_give(vectors: NDArray[np.float32]) -> None:
    fitted = Chain(Center(), PCA(dim=5), Int8("dim")).fit(vectors)
    centered = Center().fit(vectors).apply(vectors)
    reduced = PCA(dim=5).fit(centered).apply(centered)
    codes = fitted.quantize(vectors)
    np.testing.assert_array_equal(codes.data, Int8("dim").fit(reduced).quantize(reduced).data)
    assert codes.dim == 5


def test_steps_that_are_fitted_stay_as_they_are(vectors: NDArray[np.float32]) -> None:
    pca = PCA(dim=5).fit(vectors[:50])
    fitted = Chain(pca, Int8("dim")).fit(vectors)
    assert fitted.transforms == (pca,)
    again = fitted.fit(vectors[:10])
    assert (again.transforms, again.quantizer) == (fitted.transforms, fitted.quantizer)


def test_a_chain_in_a_chain_is_one_chain() -> None:
    inner = Chain(Rotation(), Int8())
    assert repr(Chain(Center(), inner)) == repr(Chain(Center(), Rotation(), Int8()))
    assert repr(inner) == "Chain(Rotation(seed=0, blocks=None), Int8(scale='vector'))"


def test_by_the_rule_same_scores_are_products_of_what_both_sides_become(vectors: NDArray[np.float32]) -> None:
    queries, documents = vectors[:5], vectors[5:]
    for chain in SAME:
        fitted = chain.fit(documents)
        assert fitted.queries == "same"
        sides = []
        for side in (queries, documents):
            for step in fitted.transforms:
                side = step.apply(side)
            sides.append(side.astype(np.float64))
        found = kernels.scores(fitted.prepare(queries), fitted.quantize(documents))
        np.testing.assert_allclose(found, sides[0] @ sides[1].T, atol=1e-4)
    assert Chain(Standardize(), Rotation(), Int8()).queries == "inverse"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Rotation(), PCA(dim=2)), "the last of a Chain must be a quantizer such as qindex.Int8.., got PCA"),
        ((Rotation(), Int8), "the last of a Chain must be a quantizer .*, got <class"),
        ((Int8(), Float8()), "all but the last of a Chain must be transforms such as qindex.Rotation.., got Int8"),
        ((Rotation, Int8()), "all but the last of a Chain must be transforms .*, got <class"),
        ((Chain(Rotation(), Int8()), Int8()), "all but the last of a Chain must be transforms .*, got Chain"),
        ((), "the last of a Chain must be a quantizer .*, got None"),
    ],
)
def test_steps_in_another_order_are_refused(steps: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Chain(*steps)


def test_a_chain_without_transforms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a Chain needs at least one transform; without one use Int8.* itself"):
        Chain(Int8())


@every_chain
def test_use_before_fit_says_how_to_fit(chain: Chain, vectors: NDArray[np.float32]) -> None:
    if chain.fitted:
        return
    for use in (chain.quantize, chain.prepare):
        with pytest.raises(ValueError, match="must be fitted before use"):
            use(vectors)


# --- in an index -----------------------------------------------------------------------------------------------------


@every_metric
@every_chain
def test_an_index_ranks_by_the_decoded_vectors(chain: Chain, metric: Metric, vectors: NDArray[np.float32]) -> None:
    queries, documents = vectors[:10], vectors[10:]
    index = FlatIndex.build(documents, chain, metric=metric)
    assert index.dim == 20
    quantizer = index.quantizer
    q, d = queries.astype(np.float64), documents
    if metric == "cosine":
        q = q / np.linalg.norm(q, axis=1, keepdims=True)
        d = (d / np.linalg.norm(d.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    decoded = quantizer.dequantize(quantizer.quantize(d)).astype(np.float64)
    wanted = q @ decoded.T
    if metric == "l2":
        wanted = -((q[:, None] - decoded) ** 2).sum(axis=2)
    found = index.search(queries, 190)
    np.testing.assert_allclose(found.scores, np.take_along_axis(wanted, found.ids, 1), atol=1e-4)
    assert np.all(np.diff(found.scores, axis=1) <= 0)


@every_metric
@pytest.mark.parametrize(
    ("quantizer", "rescore"),
    [(Chain(PCA(dim=6), Int8()), Int8("dim")), (Int8(), Chain(PCA(dim=19), Float32())), (CHAINS[2], CHAINS[1])],
    ids=repr,
)
def test_an_index_with_rescore_is_saved_changed_and_answers_alike(
    quantizer: Quantizer, rescore: Quantizer, metric: Metric, vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    index = FlatIndex.build(vectors[:150], quantizer, rescore=rescore, metric=metric)
    index.add(vectors[150:])
    index.remove(np.arange(10, 30))
    index.save(tmp_path / "a")
    loaded = qindex.load(tmp_path / "a", verify=True)
    assert (repr(loaded), loaded.dim, len(loaded)) == (repr(index), 20, 180)
    for one, other in zip(loaded.search(vectors, 15), index.search(vectors, 15), strict=True):
        np.testing.assert_array_equal(one, other)
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    # All rows rescored: the ranking of the finer codes alone.
    fine = FlatIndex.build(vectors[:150], rescore, metric=metric)
    fine.add(vectors[150:])
    fine.remove(np.arange(10, 30))
    np.testing.assert_array_equal(index.search(vectors, 5, oversample=100).ids, fine.search(vectors, 5).ids)


def test_distances_need_the_original_product(vectors: NDArray[np.float32]) -> None:
    for chain in SAME:
        for quantizers in ({"quantizer": chain}, {"quantizer": Int8(), "rescore": chain}):
            with pytest.raises(ValueError, match='metric "l2" needs a Chain whose transforms have queries="inverse"'):
                FlatIndex.build(vectors, metric="l2", **quantizers)
        fitted = chain.fit(vectors)
        with pytest.raises(ValueError, match='metric "l2" needs'):
            FlatIndex.from_codes(fitted, fitted.quantize(vectors), metric="l2")
        assert len(FlatIndex.build(vectors, Int8(), rescore=chain, metric="cosine")) == 200


def test_codes_and_vectors_of_another_dim_are_refused(vectors: NDArray[np.float32]) -> None:
    fitted = Chain(PCA(dim=6), Int8()).fit(vectors)
    with pytest.raises(ValueError, match=r"must be \(n, 6\), got \(0, 20\)"):
        FlatIndex.from_codes(fitted, Int8().quantize(vectors))
    index = FlatIndex.build(vectors, fitted)
    for use, name in ((index.search, "queries"), (index.add, "vectors")):
        with pytest.raises(ValueError, match=rf"{name} must be \(n, 20\), got \(200, 6\)"):
            use(vectors[:, :6])


def test_a_file_whose_parts_do_not_fit_is_refused(vectors: NDArray[np.float32], tmp_path: Path) -> None:
    fitted = Chain(PCA(dim=6), Int8()).fit(vectors)
    index = FlatIndex.build(vectors, fitted)
    object.__setattr__(index._state, "quantizer", Chain(PCA(dim=7).fit(vectors), Int8()))
    index.save(tmp_path / "index")
    with pytest.raises(qindex.FormatError, match=r"must be \(n, 7\), got \(0, 6\)"):
        qindex.load(tmp_path / "index")


@pytest.mark.parametrize("chain", [*CHAINS, *SAME], ids=repr)
def test_equal_chains_are_equal_files_that_come_back(
    chain: Chain, vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        io.save(tmp_path / name, chain.fit(vectors.copy()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded, fitted = qindex.load(tmp_path / "a"), chain.fit(vectors)
    assert repr(loaded) == repr(fitted)
    np.testing.assert_array_equal(loaded.quantize(vectors).data, fitted.quantize(vectors).data)
    np.testing.assert_array_equal(loaded.prepare(vectors).values, fitted.prepare(vectors).values)


# --- surprising vectors ----------------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
SURPRISES = {
    "one row": RNG.standard_normal((1, 20)),
    "duplicate rows": np.ones((9, 1)) * RNG.standard_normal(20),
    "zeros": np.zeros((9, 20)),
    "fewer rows than dimensions": RNG.standard_normal((3, 20)),
    "constant dimensions": RNG.standard_normal((50, 20)) * (np.arange(20) % 3 > 0) + 0.1,
    "denormals": RNG.standard_normal((50, 20)) * 1e-42,
    "huge norms": RNG.standard_normal((50, 20)) * 1e17,
    "an outlier dimension": RNG.standard_normal((50, 20)) * np.where(np.arange(20) == 4, 1e4, 1),
}


@every_metric
@pytest.mark.parametrize("surprise", SURPRISES)
@pytest.mark.parametrize("quantizer", [Int8(), Int8("dim"), Float8("e4m3"), Binary(center=True)], ids=repr)
def test_surprising_vectors_are_ranked(quantizer: Quantizer, surprise: str, metric: Metric) -> None:
    vectors = SURPRISES[surprise].astype(np.float32)
    queries = vectors / max(1, np.abs(vectors).max())
    for chain in (
        Chain(Standardize(), Rotation(), quantizer),
        Chain(Whiten(), quantizer),
        Chain(PCA(dim=20), Rotation(), quantizer),
    ):
        index = FlatIndex.build(vectors, chain, metric=metric)
        found = index.search(queries, len(vectors))
        assert np.isfinite(found.scores).all()
        assert (np.sort(found.ids, axis=1) == np.arange(len(vectors))).all()


def test_queries_and_deviations_that_are_both_huge_are_an_error() -> None:
    vectors = SURPRISES["huge norms"].astype(np.float32)
    for transform in (Standardize(), Whiten()):
        with pytest.raises(ValueError, match=r"transformed queries must be finite with norms up to 1e\+18, but row 0"):
            FlatIndex.build(vectors, Chain(transform, Int8())).search(vectors)
    assert (FlatIndex.build(vectors, Chain(PCA(dim=20), Rotation(), Int8())).search(vectors, 1).ids >= 0).all()
