"""Statistics of the inputs of layers: parts add up, and nothing that is not finite gets in."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import io
from qindex.lowbit.statistics import Collector, LayerStatistics, Statistics


def inputs(m: int = 200, dim: int = 24, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, dim)) @ rng.standard_normal((dim, dim))
    x[:, 5] = 0
    return x.astype(np.float32)


def collected(*parts: NDArray[np.float32], max_dim: int = 8192) -> Statistics:
    collector = Collector(max_dim)
    for part in parts:
        collector.add("layer", part)
    return collector.take()


def assert_same(a: LayerStatistics, b: LayerStatistics, rtol: float) -> None:
    assert a.count == b.count
    np.testing.assert_array_equal(a.largest, b.largest)
    np.testing.assert_allclose(a.diagonal, b.diagonal, rtol=rtol)
    assert a.hessian is not None
    assert b.hessian is not None
    np.testing.assert_allclose(a.hessian, b.hessian, rtol=rtol, atol=rtol * np.abs(a.hessian).max())


def test_sums_are_those_of_the_inputs() -> None:
    x = inputs()
    layer = collected(x)["layer"]
    exact = x.astype(np.float64)
    assert layer.count == 200
    np.testing.assert_array_equal(layer.largest, np.abs(x).max(axis=0))
    assert layer.hessian is not None
    np.testing.assert_allclose(layer.hessian, exact.T @ exact, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(layer.diagonal, layer.hessian.diagonal(), rtol=1e-12)
    assert layer.diagonal[5] == 0  # a dead channel


@pytest.mark.parametrize("cut", [0, 1, 77, 200])
def test_parts_add_up_however_the_text_is_cut(cut: int) -> None:
    x = inputs()
    whole = collected(x)["layer"]
    assert_same(collected(x[:cut], x[cut:])["layer"], whole, 1e-12)
    assert_same(collected(x[:cut]).merge(collected(x[cut:]))["layer"], whole, 1e-12)


def test_merging_keeps_layers_that_only_one_part_has_reached() -> None:
    collector = Collector()
    collector.add("other", inputs(3, 7))
    merged = collected(inputs()).merge(collector.take())
    assert list(merged) == ["layer", "other"]
    assert merged["other"].count == 3
    assert "never" not in merged
    with pytest.raises(KeyError):
        merged["never"]


def test_wide_layers_keep_only_the_diagonal() -> None:
    narrow, wide = collected(inputs(), max_dim=24)["layer"], collected(inputs(), max_dim=23)["layer"]
    assert wide.hessian is None
    np.testing.assert_array_equal(wide.diagonal, narrow.diagonal)
    assert wide.merged(narrow).hessian is None


def test_a_collector_begins_anew_after_it_was_taken_from() -> None:
    collector = Collector()
    collector.add("layer", inputs())
    first = collector.take()
    assert len(collector.take()) == 0
    collector.add("layer", inputs(seed=1))
    assert_same(first["layer"], collected(inputs())["layer"], 0)


def test_saved_statistics_load_as_they_were(tmp_path: Path) -> None:
    statistics = collected(inputs()).merge(Statistics(("wide",), (collected(inputs(), max_dim=1)["layer"],)))
    io.save(tmp_path / "statistics", statistics)
    loaded = io.load(tmp_path / "statistics", verify=True)
    assert list(loaded) == ["layer", "wide"]
    assert_same(loaded["layer"], statistics["layer"], 0)
    assert loaded["wide"].hessian is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_an_error_that_names_the_layer(bad: float) -> None:
    x = inputs()
    x[3, 4] = bad
    collector = Collector()
    with pytest.raises(ValueError, match=r"inputs of layer encoder\.0\.query must be finite .* row 3 has NaN or inf"):
        collector.add("encoder.0.query", x)
    assert len(collector.take()) == 0


def test_inputs_of_another_width_are_an_error() -> None:
    collector = Collector()
    collector.add("layer", inputs())
    with pytest.raises(ValueError, match=r"inputs of layer layer must be \(n, 24\), got \(200, 23\)"):
        collector.add("layer", inputs(dim=23))
    with pytest.raises(ValueError, match="other must be statistics of 24 channels, got 23"):
        collected(inputs())["layer"].merged(collected(inputs(dim=23))["layer"])


def test_statistics_that_make_no_sense_are_refused() -> None:
    ones, largest = np.ones(3), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="diagonal must be finite"):
        LayerStatistics(1, np.array([1, np.nan, 1]), largest)
    with pytest.raises(ValueError, match="hessian must be finite"):
        LayerStatistics(1, ones, largest, np.full((3, 3), np.inf))
    with pytest.raises(ValueError, match=r"hessian must be float64 \(3, 3\), got float64 \(2, 3\)"):
        LayerStatistics(1, ones, largest, np.ones((2, 3)))
    with pytest.raises(ValueError, match="none of its sums negative"):
        LayerStatistics(1, -ones, largest)
    with pytest.raises(ValueError, match="count must be an integer, 0 or more, got -1"):
        LayerStatistics(-1, ones, largest)
    with pytest.raises(ValueError, match="names must be unique, one for each of 1 layers, got 0"):
        Statistics((), (LayerStatistics(1, ones, largest),))
    with pytest.raises(ValueError, match="max_dim must be an integer, 0 or more, got -1"):
        Collector(-1)
