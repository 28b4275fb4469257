"""Systems as they are written and read."""

import re

import numpy as np
import pytest

import qindex
from qindex.evaluate.systems import System

WRITTEN = [
    ("int8", "flat", "Int8()"),
    ("float8-e3m4", "flat", 'Float8("e3m4")'),
    ("int8-dim", "flat", 'Int8("dim")'),
    ("rabitq1+rabitq4", "ivf(nprobe=8)", "RaBitQ(1) + RaBitQ(4), ivf(nprobe=8)"),
    ("pca(192), float8('e4m3')", "graph(degree=16, ef=32)", 'Chain(PCA(192), Float8("e4m3")), graph(degree=16, ef=32)'),
    ("binary(center=True) + int8", "flat(oversample=8)", "Binary(center=True) + Int8(), flat(oversample=8)"),
    ("SPECTRAL(98)", "FlatIndex", "Spectral(98)"),
    ("chain(pca192, int8-dim)", "flat", 'Chain(PCA(192), Int8("dim"))'),
    ("recurrentbinary(2, 256)", "flat", "RecurrentBinary(2, 256)"),
    ("pca9, rabitq1+int8", "ivf(nlist=10, spill=True)", "Chain(PCA(9), RaBitQ(1)) + Int8(), ivf(nlist=10, spill=True)"),
]  # fmt: skip


@pytest.mark.parametrize(("chain", "index", "name"), WRITTEN)
def test_a_system_has_the_name_that_it_is_read_from(chain: str, index: str, name: str) -> None:
    system = System.parse(chain, index)
    assert system.name == name
    again = System.parse(system.chain, index)
    assert (again.name, again.lines()) == (system.name, system.lines())


@pytest.mark.parametrize(
    ("chain", "index", "_name"), [one for one in WRITTEN if "Recurrent" not in one[2]]
)  # it trains
def test_the_code_of_a_system_builds_and_searches_what_it_does(chain: str, index: str, _name: str) -> None:
    system = System.parse(chain.replace("192", "24").replace("98", "16"), index)
    vectors = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    built = system.build(vectors, "cosine")
    names = {"qindex": qindex, "vectors": vectors, "queries": vectors[:5]}
    exec("\n".join(system.lines("cosine")), names)
    found = system.search(built, vectors[:5], 10)
    np.testing.assert_array_equal(names["ids"], found.ids)
    np.testing.assert_array_equal(names["scores"], found.scores)
    assert system.bytes_per_vector(32) * 300 <= built.nbytes


@pytest.mark.parametrize(
    ("chain", "index", "said"),
    [
        ("int9", "flat", "got 'int9'; did you mean int8 or int4"),
        ("rabit(4)", "flat", "did you mean rabitq"),
        ("int8", "iv", "did you mean ivf"),
        ("int8", "ivf(nprobes=3)", "did you mean nprobe"),
        ("int8", "flat(nprobe=3)", "one of oversample, guarantee"),
        ("int8", "ivf(8)", "must name its settings"),
        ("pca(192)", "flat", "must end in a quantizer"),
        ("int8 + pca(3)", "flat", "must end in a quantizer"),
        ("import os", "flat", "must be written like"),
        ("__import__('os')", "flat", "got '__import__'"),
        ("int8 + ", "flat", "must be written like"),
        ("rabitq(a)", "flat", "numbers and words"),
        ("int8(scales='dim')", "flat", "takes other arguments"),
        ("rabitq(99)", "flat", "bits"),
    ],
)
def test_what_is_no_system_is_refused_with_what_is_near(chain: str, index: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        System.parse(chain, index)


def test_a_setting_of_another_index_is_refused() -> None:
    with pytest.raises(ValueError, match="a setting of flat's search"):
        System(qindex.Int8(), searched={"nprobe": 3})
    with pytest.raises(TypeError, match=r"quantizer must be a quantizer such as qindex\.Int8"):
        System(qindex.PCA(8))  # type: ignore[arg-type]


def test_a_walk_keeps_as_many_rows_as_are_asked_for() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    system = System.parse("int8", "graph(ef=16)")
    found = system.search(system.build(vectors), vectors[:2], 50).ids
    assert found.shape == (2, 50)
    names = {"qindex": qindex, "vectors": vectors, "queries": vectors[:2]}
    exec("\n".join(system.lines(k=50)), names)
    assert np.array_equal(names["ids"], found)
