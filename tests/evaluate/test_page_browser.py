"""Reports as a page, opened in a browser: Debian's chromium, headless."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from qindex.evaluate.metrics import Interval
from qindex.evaluate.page import page, write_page
from qindex.evaluate.report import Report, Row

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the page with")

ROWS = [
    Row("Float32()", "flat", 0.7, 1536, "index = 32", parts={"cran": 0.7, "med": 0.6}, latency_ms=14.0),
    Row("Int8()", "flat", 0.69, 388, "index = 8", (0.6, 0.8), Interval(0.01, -0.1, 0.1), {"cran": 0.8}, 396, 3.0),
    Row("Int4()", "flat", 0.65, 196, parts={"cran": 0.1, "med": 0.9}, latency_ms=2.0),
    Row("Int8(), ivf(nprobe=4)", "ivf", 0.6, 388, "index = 4", latency_ms=0.5),
    Row("mteb int8", "mteb", 0.5, 384),
]
REPORT = Report("Title", "nDCG@10", ROWS, "Float32()", "Int8()", ["run it"], ["A note."])
BY_BYTES = ["Int4()", "mteb int8", "Int8()", "Int8(), ivf(nprobe=4)", "Float32()"]


class Opened(NamedTuple):
    dom: str  # after its scripts ran, and without them
    console: list[str]

    def rows(self, table: int = 0) -> list[str]:
        body = re.findall(r"<tbody>(.*?)</tbody>", self.dom, re.DOTALL)[table]
        return [unescape(name) for name in re.findall(r'<a href="#row.*?">(.*?)</a>', body)]

    def points(self) -> list[str]:
        return [unescape(name) for name in re.findall(r'<g class="point.*?aria-label="(.*?)"', self.dom)]


def opened(path: Path, address: str = "", *options: str) -> Opened:
    profile = path.parent / "profile"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--enable-logging=stderr", f"--user-data-dir={profile}", "--window-size=1000,800",
            "--virtual-time-budget=3000", *options, "--dump-dom", path.as_uri() + address,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    dom = re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.DOTALL)
    return Opened(dom, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def driven(path: Path, script: str, width: int = 1000) -> Any:
    """What a script returns that uses the page, as `page` and `view`, in a frame of so many pixels."""
    driver = path.with_name("driver.html")
    driver.write_text(
        f'<body><iframe id="frame" src="{path.name}" width="{width}" height="800"></iframe><script>'
        "frame.onload = async () => { const view = frame.contentWindow, page = frame.contentDocument;"
        "const all = (what) => [...page.querySelectorAll(what)];"
        f"const found = await (async () => {{ {script} }})();"
        'document.body.textContent = "found" + JSON.stringify(found) + "end"; }</script>'
    )
    shown = opened(driver, "", "--allow-file-access-from-files")
    assert not shown.console
    return json.loads(unescape(re.search("found(.*)end</body>", shown.dom, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page([REPORT], path)
    return path


class Trap(ThreadingHTTPServer):
    """A server of this machine that nobody should ask."""

    asked: ClassVar[list[str]] = []

    class RequestHandlerClass(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            Trap.asked.append(self.path)
            self.send_error(404)


@pytest.fixture
def trap() -> Iterator[Trap]:
    Trap.asked.clear()
    with Trap(("127.0.0.1", 0), Trap.RequestHandlerClass) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_every_row_has_a_point_and_the_console_is_empty(path: Path) -> None:
    shown = opened(path)
    assert [point.split(", nDCG")[0] for point in shown.points()] == [
        "Int4()", "mteb int8", "Int8(), ivf(nprobe=4)", "Int8()", "Float32()",
    ]  # fmt: skip
    assert "Int8(), nDCG@10 0.6900 [0.6000, 0.8000]" in shown.points()[3]
    assert shown.points()[3].endswith(", the choice")
    assert shown.rows() == shown.rows(1) == BY_BYTES
    assert shown.console == []


def test_the_address_sorts_what_is_missing_last(path: Path) -> None:
    down = opened(path, "#sort=-latency")
    assert down.rows() == ["Float32()", "Int8()", "Int4()", "Int8(), ivf(nprobe=4)", "mteb int8"]
    assert down.dom.count('aria-sort="descending"') == 1
    assert opened(path, "#sort=latency").rows()[-1] == "mteb int8"
    tasks = opened(path, "#sort=-task:med")
    assert tasks.rows(1)[:2] == ["Int4()", "Float32()"]
    assert tasks.rows(0) == BY_BYTES


def test_the_address_chooses_the_axis_and_a_row(path: Path) -> None:
    shown = opened(path, "#x=latency&row=Int8(),%20ivf(nprobe%3D4)")
    assert [point.split(", nDCG")[0] for point in shown.points()] == [
        "Int8(), ivf(nprobe=4)", "Int4()", "Int8()", "Float32()",
    ]  # fmt: skip
    assert "<code>index = 4</code>" in shown.dom
    assert "<b>Selected: Int8(), ivf(nprobe=4)</b>" in shown.dom
    assert re.search(r'<tr data-row="3" aria-current="true" class="on">', shown.dom)
    assert re.search(r'<div class="tip".*?><b>Int8\(\), ivf\(nprobe=4\)</b><div>nDCG@10 0.6000</div>', shown.dom)


def test_an_address_of_what_is_not_there_shows_the_page_as_it_is(path: Path) -> None:
    shown = opened(path, "#x=colour&sort=-shape&row=Int9()&row2=3")
    assert (shown.rows(), len(shown.points()), shown.console) == (BY_BYTES, 5, [])


def test_clicks_on_a_head_sort_up_down_and_back(path: Path) -> None:
    found = driven(
        path,
        """const found = [];
        for (let i = 0; i < 3; i++) {
            page.querySelector("[data-key=score] button").click();
            found.push([page.querySelector("tbody a").textContent, view.location.hash]);
        }
        return found;""",
    )
    assert found == [["Float32()", "#sort=-score"], ["mteb int8", "#sort=score"], ["Int4()", ""]]


def test_a_point_and_its_row_light_up_together(path: Path) -> None:
    found = driven(
        path,
        """const found = [];
        function send(event, to) {
            page.querySelector(to).dispatchEvent(new view.MouseEvent(event));
            found.push(all(".on").map((one) => one.localName + one.dataset.row).join(" "));
            found.push(page.querySelector(".tip b")?.textContent);
        }
        send("mouseenter", "g.point[data-row='2']");
        send("mouseleave", "g.point[data-row='2']");
        send("mouseenter", "tr[data-row='1']");
        return found;""",
    )
    assert found == ["g2 tr2 tr2", "Int8()", "", None, "g1 tr1 tr1", "mteb int8"]


def test_keys_go_from_point_to_point_and_choose(path: Path) -> None:
    found = driven(
        path,
        """const found = [];
        function press(key) {
            page.activeElement.dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles: true }));
        }
        page.querySelector("g.point[tabindex='0']").focus();
        ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight", "ArrowRight"].forEach(press);
        found.push(page.activeElement.dataset.row, all("g.point[tabindex='0']").length);
        press("Enter");
        found.push(decodeURIComponent(view.location.hash), page.activeElement.dataset.row);
        press("Escape");
        return [...found, view.location.hash];""",
    )
    assert found == ["2", 1, "#row=Int8()", "2", ""]


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_nothing_but_a_table_is_wider_than_the_screen(path: Path, width: int) -> None:
    assert driven(path, "return page.documentElement.scrollWidth - page.documentElement.clientWidth", width) == 0


def test_reports_on_one_page_do_not_mix(tmp_path: Path) -> None:
    write_page([REPORT, Report("Other", "recall@10", ROWS[1:])], tmp_path / "two.html")
    shown = opened(tmp_path / "two.html", "#x2=latency&sort2=-score&row2=Int4()")
    assert shown.rows(0) == BY_BYTES
    assert shown.rows(2) == ["Int8()", "Int4()", "Int8(), ivf(nprobe=4)", "mteb int8"]
    assert len(shown.points()) == 5 + 3
    assert shown.dom.count("aria-current") == 2  # in both tables of the second
    assert shown.console == []


def test_hostile_texts_neither_run_nor_fetch(tmp_path: Path, trap: Trap) -> None:
    away = f"http://127.0.0.1:{trap.server_port}"
    name = (
        f"</script><script>document.title='ran'</script><img src={away}/x onerror=\"document.title='ran'\">'&amp;<!--"
    )
    rows = [Row(name, name, 0.5, 48, name, parts={name: 0.5}, latency_ms=1.0), Row("\u2028\x00", "b", 0.4, 40)]
    report = Report(name, name, rows, name, name, [name], [name], {name: name})
    write_page([report, report], tmp_path / "page.html")
    shown = opened(tmp_path / "page.html", f"#row={name}")
    assert "<title>2 reports</title>" in shown.dom
    assert len(shown.points()) == 4
    assert shown.console == []
    assert trap.asked == []


def test_what_would_get_past_the_escapes_is_stopped_by_the_policy(tmp_path: Path, trap: Trap) -> None:
    away = f"http://127.0.0.1:{trap.server_port}"
    script = f"<img src={away}/x onerror=\"document.title='ran'\"><script>document.title = 'ran'</script>"
    (tmp_path / "page.html").write_text(page([REPORT]).replace("A note.", script))
    shown = opened(tmp_path / "page.html")
    assert "<title>Title</title>" in shown.dom
    assert any("Content Security Policy" in line for line in shown.console)
    assert trap.asked == []


def test_the_console_and_the_trap_would_tell(tmp_path: Path, trap: Trap) -> None:
    away = f"http://127.0.0.1:{trap.server_port}"
    (tmp_path / "page.html").write_text(f"<img src={away}/x><script>nothing()</script>")
    assert any("nothing is not defined" in line for line in opened(tmp_path / "page.html").console)
    assert trap.asked == ["/x"]
