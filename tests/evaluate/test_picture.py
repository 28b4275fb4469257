"""Reports as pictures."""

from pathlib import Path

import numpy as np
import pytest

from qindex.evaluate.picture import draw
from qindex.evaluate.report import Report, Row

ROWS = [
    Row(f"RaBitQ({bits})", "flat", 1 - 0.5**bits, 50 * bits, interval=(1 - 0.6**bits, 1 - 0.4**bits))
    for bits in range(1, 9)
]
TIMED = [Row(f"Int{i}() $x^{{$", "_ivf", 0.1 * i, 388, latency_ms=0.1 * i) for i in range(1, 4)]


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib: qindex[plot]")


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))


@pytest.mark.usefixtures("matplotlib")
def test_latencies_have_a_panel_of_their_own(tmp_path: Path) -> None:
    draw(Report("One", "recall@10", ROWS), tmp_path / "one.png")
    draw(Report("Two", "recall@10", [*ROWS, *TIMED], choice="RaBitQ(4)"), tmp_path / "two.png")
    assert pixels(tmp_path / "two.png").shape[1] == 2 * pixels(tmp_path / "one.png").shape[1]


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [(10,), (10, 20), (10, 10)])
def test_few_points_with_an_interval_are_drawn_without_a_warning(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    rows = [Row(f"{i}", "flat", 0.5, size, interval=None if i else (0.4, 0.6)) for i, size in enumerate(sizes)]
    draw(Report("Title", "recall@10", rows), tmp_path / "few.png")
    assert len(np.unique(pixels(tmp_path / "few.png").reshape(-1, 4), axis=0)) > 2


@pytest.mark.usefixtures("matplotlib")
def test_every_family_has_its_colour_and_rows_that_cost_nothing_are_left_out(tmp_path: Path) -> None:
    def colours(rows: list[Row]) -> set[tuple[int, ...]]:
        draw(Report("", "recall@10", rows), tmp_path / "picture.png")
        return {
            tuple(one) for one in np.round(pixels(tmp_path / "picture.png")[..., :3] * 255).reshape(-1, 3).astype(int)
        }

    orange = (0xC2, 0x56, 0x0C)
    assert orange not in colours(ROWS)
    assert orange in colours([*ROWS, Row("other", "of others", 0.5, 100)])
    assert colours([*ROWS, Row("free", "flat", 0.4, 0)]) == colours(ROWS)


@pytest.mark.usefixtures("matplotlib")
def test_a_report_of_which_nothing_can_be_drawn_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    for rows in ([], [Row("free", "flat", 0.5, 0)]):
        with pytest.raises(ValueError, match="must have a row with bytes or a latency above 0"):
            draw(Report("", "", rows), tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("matplotlib")
def test_names_on_the_front_cover_neither_each_other_nor_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw(Report("", "recall@10", ROWS, choice="RaBitQ(8)"), tmp_path / "picture.png")
    (axes,) = figures[0].axes
    boxes = [text.get_window_extent() for text in axes.texts]
    points = axes.transData.transform([(row.bytes_per_vector, row.score) for row in ROWS])
    assert "RaBitQ(8)" in [text.get_text() for text in axes.texts]
    assert len(boxes) >= 4
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.contains(x, y) for x, y in points)


def test_without_matplotlib_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'qindex\[plot\]'"):
        draw(Report("", "", ROWS), tmp_path / "picture.png")
