"""Reports as a page: what its text holds. test_page_browser.py opens it."""

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pytest

from qindex.evaluate.metrics import Interval
from qindex.evaluate.page import page, write_page
from qindex.evaluate.report import Report, Row

ROWS = [
    Row("Float32()", "flat", 0.7, 1536, parts={"cran": 0.7, "med": 0.7}, index_bytes=154_000_000, latency_ms=14.0),
    Row("Int8()", "flat", 0.69, 388, "index = 8", (0.6, 0.8), Interval(0.01, -0.1, 0.1), {"cran": 0.69}),
]
REPORT = Report("Title", "nDCG@10", ROWS, "Float32()", "Int8()", ["run it"], ["A note."], {"date": "2026-01-31"})
HOSTILE = """</script><img src=x onerror=alert(1)>'"&amp;<!--"""


def data_of(text: str) -> list[dict]:
    return [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)]


def test_without_a_script_the_table_has_every_number() -> None:
    line = re.search(r'<tr data-row="0".*?</tr>', page([REPORT]), re.DOTALL)[0]
    cells = [unescape(re.sub("<.*?>", " ", cell)).split() for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]
    assert cells == [
        ["Int8()", "storage", "the", "choice"], ["0.6900"], ["[0.6000,", "0.8000]"],
        ["0.0100"], ["[-0.1000,", "0.1000]"], ["388"], [], [], [],
    ]  # fmt: skip


def test_the_choice_its_code_notes_commands_and_environment_are_there() -> None:
    text = page([REPORT])
    for part in ("The choice: Int8()", "<code>index = 8</code>", "A note.", "<code>run it</code>", "2026-01-31"):
        assert part in text


def test_what_a_report_lacks_has_no_place() -> None:
    text = page([Report("Bare", "recall@10", [Row("Int8()", "flat", 0.9, 388)])])
    assert "recall@10 of 1 system<" in text
    keys = re.findall('data-key="(.*?)"', text)
    assert keys == ["name", "score", "bytes"]
    for part in ("Notes", "To reproduce", "Environment", "Scores on", "<code>", "intervals", "<em>latency</em>"):
        assert part not in text


def test_the_policy_names_the_style_and_the_script_that_are_there() -> None:
    text = page([REPORT])
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_every_text_is_escaped_wherever_it_stands() -> None:
    row = Row(HOSTILE, HOSTILE, 0.5, 48, HOSTILE, parts={HOSTILE: 0.5})
    text = page([Report(HOSTILE, HOSTILE, [row], HOSTILE, HOSTILE, [HOSTILE], [HOSTILE], {HOSTILE: HOSTILE})] * 2)
    assert "<img" not in text
    assert "<!--" not in text
    assert text.count("</script>") == 3
    assert data_of(text)[0]["rows"][0]["name"] == HOSTILE
    assert data_of(text)[0]["rows"][0]["code"] == HOSTILE


def test_the_data_tell_fronts_and_choice_by_the_place_in_the_table() -> None:
    (data,) = data_of(page([REPORT]))
    assert [row["name"] for row in data["rows"]] == ["Int8()", "Float32()"]
    assert data["choice"] == 0
    assert data["fronts"] == {"bytes": [0, 1], "latency": [1]}
    assert data["rows"][0]["tip"] == [
        "Int8()", "nDCG@10 0.6900 [0.6000, 0.8000]", "loss 0.0100 [-0.1000, 0.1000]", "388 bytes per vector",
    ]  # fmt: skip


def test_no_report_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one report"):
        write_page([], tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    write_page([Report("\ud800", "m", [Row("\udfff", "flat", 0.5, 48)])], tmp_path / "page.html")
    assert b"&#55296;" in (tmp_path / "page.html").read_bytes()
