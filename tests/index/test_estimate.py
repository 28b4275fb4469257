import numpy as np
import pytest

from qindex import (
    PCA,
    Binary,
    Chain,
    FlatIndex,
    Float16,
    GraphIndex,
    Int4,
    Int8,
    IVFIndex,
    LloydMax,
    Microscaling,
    RaBitQ,
    Spectral,
)
from qindex.index.estimate import KINDS, default_lists, estimate

N, DIM = 3_000, 100


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, DIM), np.float32)


@pytest.mark.parametrize(
    ("quantizer", "rescore"),
    [
        (None, None),
        (Int4(), Int8()),
        (RaBitQ(1), Int8()),
        (RaBitQ(1), RaBitQ(2)),
        (RaBitQ(1), RaBitQ(4)),
        (RaBitQ(1), RaBitQ(4, seed=1)),
        (RaBitQ(2), RaBitQ(4)),
        (LloydMax(3), None),
        (Spectral(60), Float16()),
        (Microscaling("nvfp4"), None),
        (Chain(PCA(50), Binary()), None),
    ],
    ids=str,
)
def test_bytes_of_a_flat_index_are_exact_but_for_what_was_learnt(vectors, quantizer, rescore, tmp_path):
    index = FlatIndex.build(vectors, quantizer, rescore=rescore)
    index.save(tmp_path / "index.qindex")
    expected = estimate(N, DIM, quantizer=quantizer, rescore=rescore).n_bytes
    assert 0 <= index.nbytes - expected <= 256  # tables that all rows share
    assert 0 < (tmp_path / "index.qindex").stat().st_size - expected <= 4 * DIM * DIM + 4_096


def test_lists_add_centroids_and_a_graph_adds_links():
    flat, ivf, graph = (
        estimate(N, DIM, index=index, quantizer=Int4(), rescore=Int8(), threads=1).n_bytes for index in KINDS
    )
    assert ivf - flat == default_lists(N) * (DIM + 36) + 8
    assert graph - flat == N * 4 * 32 + 4 * 16


def test_a_graph_is_of_int4_and_int8_unless_it_is_told():
    assert estimate(N, DIM, index="graph") == estimate(N, DIM, index="graph", quantizer=Int4(), rescore=Int8())
    alone = estimate(N, DIM, index="graph", quantizer=Int4())
    assert alone.n_bytes == estimate(N, DIM, index="graph").n_bytes - N * Int8().bytes_per_vector(DIM)


@pytest.mark.parametrize("index", KINDS)
def test_more_vectors_take_more_and_more_threads_take_no_longer(index):
    small, large = (estimate(n, DIM, index=index, threads=1) for n in (N, 10 * N))
    assert all(few < many for few, many in zip(small, large, strict=True))
    assert estimate(N, DIM, index=index, threads=2).build_s <= small.build_s


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be a positive integer, got 0"),
        ({"dim": 1.5}, "dim must be a positive integer, got 1.5"),
        ({"threads": True}, "threads must be a positive integer, got True"),
        ({"index": "tree"}, 'index must be "flat", "ivf" or "graph", got \'tree\''),
        ({"nlist": 8}, "nlist needs index=\"ivf\", got index='flat'"),
        ({"index": "ivf", "degree": 8}, "degree needs index=\"graph\", got index='ivf'"),
        ({"spill": True, "rescore": Int8()}, "spill needs index=\"ivf\" and rescore, got index='flat'"),
        ({"spill": True, "index": "ivf"}, "and rescore=None"),
        ({"quantizer": Spectral(200)}, "bytes must be at most 102"),
    ],
    ids=str,
)
def test_bad_input_is_named(settings, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        estimate(**{"n": N, "dim": DIM} | settings)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("index", "quantizer", "rescore", "options"),
    [
        ("ivf", None, None, {}),
        ("ivf", RaBitQ(1), RaBitQ(4), {}),
        ("ivf", Int4(), Int8(), {}),
        ("ivf", RaBitQ(2), Int8(), {"spill": True}),
        ("graph", None, None, {}),
        ("graph", Int8(), None, {}),
        ("graph", RaBitQ(1), Int8(), {}),
    ],
    ids=str,
)
def test_bytes_of_other_indexes_are_those_of_their_files_but_for_what_was_learnt(
    vectors, index, quantizer, rescore, options, tmp_path
):
    build = {"ivf": IVFIndex, "graph": GraphIndex}[index].build
    build(vectors, quantizer, rescore=rescore, **options).save(tmp_path / "index.qindex")
    expected = estimate(N, DIM, index=index, quantizer=quantizer, rescore=rescore, **options).n_bytes
    assert abs((tmp_path / "index.qindex").stat().st_size - expected) <= 8_192
