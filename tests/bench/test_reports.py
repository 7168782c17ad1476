"""The page, the document and the table of a run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.html import page
from bench.limits import judge
from bench.markdown import performance, read_reasons
from bench.results import KIFA, Run, RunFileError
from bench.svg import plot, short
from bench.text import number, report
from tests.bench.runs import made_up, run_of

VOID = {"meta"}


@pytest.fixture
def run() -> Run:
    group = made_up("append_many/50", (3000.0,), (4000.0,), sqlite=(1000.0,), plain=(3500.0,))
    group.parameters["group"] = 50
    group.not_equal["plain"] = "no checksum"
    doubtful = made_up("append_many/500", (10.0, 95.0, 300.0))
    doubtful.parameters["group"] = 500
    return run_of(made_up(kifa=(90.0, 91.0), sqlite=(80.0,), plain=(70.0,)), group, doubtful)


class Strict(HTMLParser):
    """Fails where an element is not closed, and collects what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(run: Run) -> None:
    parser = Strict()
    content = page(run)
    parser.feed(content)
    assert parser.open == []
    assert parser.loaded == []
    assert "script" not in parser.seen
    assert not re.search(r"url\(|@import|https?:", content)


def test_the_page_shows_plots_verdicts_and_doubts(run: Run) -> None:
    content = page(run)
    assert content.count("<svg") == 2
    assert "a &lt;CPU&gt; &amp; more" in content
    assert '<span class="missed">missed</span>' in content
    assert "warning" in content
    assert "no checksum" in content


def test_a_page_of_little(tmp_path: Path) -> None:
    assert "<svg" not in page(run_of())


def test_a_plot_keeps_all_points_inside() -> None:
    drawing = plot(
        {KIFA: [(1, 10), (50, 1e6)], "floor": [(1, 0.5)]}, title="t", x_title="x", y_title="y"
    )
    points = [pair for line in re.findall(r'points="([^"]*)"', drawing) for pair in line.split()]
    places = [tuple(map(float, pair.split(","))) for pair in points]
    assert len(places) == 3
    assert all(0 < x < 620 and 0 < y < 340 for x, y in places)


def test_numbers_for_people() -> None:
    assert [number(value) for value in (None, 0, 0.934, 12.34, 123.4, 12345.6)] == [
        "-",
        "0",
        "0.93",
        "12.3",
        "123",
        "12,346",
    ]
    assert [short(value) for value in (0.5, 2000, 5e6)] == ["0.5", "2k", "5M"]


def test_the_document_has_every_limit_and_every_reason(run: Run) -> None:
    content = performance(run, {"append-1-thread": "the disk was tired"})
    for verdict in judge(run):
        assert f"| {verdict.what} |" in content
    assert "the disk was tired" in content
    assert "make bench" in content
    assert "not known yet" in content
    assert "append_many of 50 " in content.split("## Why the missed ones were")[1]


def test_the_document_is_a_table_everywhere(run: Run) -> None:
    """Each table has as many cells in each row as in its heading."""
    for block in performance(run, {}).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block


def test_reasons_are_read(tmp_path: Path) -> None:
    path = tmp_path / "reasons.toml"
    assert read_reasons(path) == {}
    path.write_text('[missed]\nx = """\ntwo\nlines"""\n')
    assert read_reasons(path) == {"x": "two lines"}
    for wrong in ("[missed]\nx = 1\n", "not toml", "missed = 1"):
        path.write_text(wrong)
        with pytest.raises(RunFileError):
            read_reasons(path)


def test_reasons_of_the_project_are_of_limits_there_are() -> None:
    root = Path(__file__).parents[2]
    names = {verdict.name for verdict in judge(run_of())}
    assert read_reasons(root / "docs" / "PERFORMANCE.reasons.toml").keys() <= names


def test_what_makes_figures_worthless_is_said(run: Run) -> None:
    assert "in memory" not in report(run)
    run.header |= {"file_system": "tmpfs", "load_before": 3.0}
    for content in (report(run), page(run), performance(run, {})):
        assert "in memory" in content
        assert "load 3.0" in content


def test_the_table_warns_where_rounds_disagree(run: Run) -> None:
    content = report(run)
    assert "warning" in content
    assert "measurement append_many/500" in content.split("warning")[1]
    assert "is not equally durable: no checksum" in content
    assert "lmdb is not installed (pip install 'kifa[bench]')" in content
