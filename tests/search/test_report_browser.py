"""The report in a browser: on a screen and on a phone, every plot is drawn and nothing is wider than the screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.report.build import page
from search.report.collect import collect
from search.report.headline import headline
from search.report.tables import tables
from tests.search.report_records import whole
from tests.search.report_run import finish, plots_of, search_small

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """<script>
addEventListener("load", () => setTimeout(() => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const width = document.documentElement.clientWidth;
  const inside = (element) => element.closest(".wide") !== null;
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => !inside(e) && !e.closest("svg") && e.getBoundingClientRect().right > width + 1);
  const drawn = [...document.querySelectorAll(".plot")].filter((p) => p.querySelector(".main-svg"));
  const clipped = drawn.filter((p) => p.querySelector(".main-svg").getBoundingClientRect().width > p.clientWidth + 1);
  const cut = [...document.querySelectorAll(".plot .annotation-text, .plot .gtitle")].filter(
    (t) => t.getBoundingClientRect().right > t.closest(".plot").getBoundingClientRect().right + 2);
  parent.postMessage({
    width, scroll: document.documentElement.scrollWidth, wide: wide.map((e) => e.outerHTML.slice(0, 80)),
    drawn: drawn.map((p) => p.id), clipped: clipped.map((p) => p.id), cut: cut.map((t) => t.textContent),
    requests: performance.getEntriesByType("resource").map((r) => r.name),
  }, "*");
}, 2000));
</script>"""
FRAME = """<!doctype html><body style="margin:0"><iframe src="page.html" style="width:{width}px;height:4000px;border:0">
</iframe><pre id="found"></pre><script>
addEventListener("message", (event) => { document.getElementById("found").textContent = JSON.stringify(event.data); });
</script></body>"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with every part."""
    run = collect(finish(search_small(tmp_path_factory.mktemp("browser"))))
    other = [
        replace(t, value=0.9 + 0.01 * t.number, parameters=1000 + 10 * t.number, seconds=2.0 + t.number)
        for t in run.trials
    ]
    run = replace(run, trials=tuple(other))
    record = replace(run, **whole(run, [1, 2, 3, 4, 5, 6]))
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(record, headline(record), tables(record)), encoding="utf-8")
    return path


def browse(path: Path, profile: Path) -> tuple[str, str]:
    """Return a page's document after its scripts ran, and what the browser said."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--hide-scrollbars", "--window-size=1400,4000", "--virtual-time-budget=15000", "--enable-logging=stderr"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    command = [CHROMIUM, *flags, "--v=0", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    return done.stdout, done.stderr


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_every_plot_is_drawn_and_nothing_is_too_wide(written: Path, tmp_path: Path, width: int) -> None:
    text = written.read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    document, said = browse(tmp_path / "frame.html", tmp_path / "profile")
    assert "Uncaught" not in said and "CONSOLE" not in said, said
    match = re.search(r'<pre id="found">(.+?)</pre>', document, re.DOTALL)
    assert match is not None, "the page did not say what it measured"
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    assert found["width"] == width and found["requests"] == []
    assert {p.removeprefix("plot-") for p in found["drawn"]} == plots_of(text) and len(found["drawn"]) >= 30
    assert (found["wide"], found["clipped"], found["cut"]) == ([], [], [])
    assert found["scroll"] <= width
