"""The report: one file, everything in it, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tokenrelay.loadtest.figures import STAGES, Record
from tokenrelay.loadtest.report import as_html, as_text, plot

HEALTH = {"generators": 1, "cpu_us_per_token": 100.0, "busy": 0.2, "lag_ms_p99": 1.0, "was_bottleneck": False}
ABOUT = {"scenario": "steady", "command": "python -m loadtest steady"}
MACHINE = {"processor": "eight <cores>", "python": "CPython 3.11"}


def record() -> Record:
    made = Record()
    for second in range(10):
        made.first_token(second, second + 1, 3.0 + second)
        made.open_by_second[second] = second + 1
    made.counts.update(streams=10, tokens=2000)
    made.split({"admit_ms": 1.0, "queue_ms": 4.0, "edge_ms": 0.5})
    return made


class Checker(HTMLParser):
    """Every element that is opened is closed."""

    VOID = frozenset({"meta", "path", "polyline", "circle", "br", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone() -> None:
    html = as_html(record(), HEALTH, ABOUT, MACHINE)
    assert not re.search(r"(?i)<script|<link|src=|href=|url\(|@import", html)
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert checker.seen.count("svg") == 3 + len(STAGES)  # the plots and a bar for each stage


def test_the_report_says_what_ran_where() -> None:
    html = as_html(record(), HEALTH, ABOUT, MACHINE)
    assert all(said in html for said in ("python -m loadtest steady", "eight &lt;cores&gt;", "CPython 3.11"))
    assert all(said in html for said in ("10 streams", "100 us CPU a token"))


def test_the_stages_of_the_first_token_are_shown_and_the_longest_has_the_longest_bar() -> None:
    page = as_html(record(), HEALTH, ABOUT, MACHINE)
    bars = dict(re.findall(r"<tr><td>([^<]*)</td>(?:(?!</tr>).)*?<rect width=\"([\d.]+)\"", page))
    assert float(bars["to taken by a worker"]) == 200
    assert float(bars["at the edge to in the socket"]) < float(bars["received to enqueued (edge)"]) < 200
    assert "to taken by a worker" in as_text(record().summary(), HEALTH)
    assert "to taken by a worker" not in as_text(Record().summary(), HEALTH)


def test_errors_are_shown_and_escaped() -> None:
    failed = record()
    failed.fail("refused <b>with</b> 429")
    html = as_html(failed, HEALTH, ABOUT, MACHINE)
    assert "refused &lt;b&gt;with&lt;/b&gt; 429" in html
    assert "class=bad" in html


def test_a_run_without_a_stream_is_reported_too() -> None:
    assert "Nothing was measured." in as_html(Record(), HEALTH, ABOUT, MACHINE)


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(5.0, 1.0), (5.0, 2.0)], [(0.0, 1e9), (1e6, 1.0)]])
def test_any_points_are_drawn_inside_the_frame(points: list[tuple[float, float]]) -> None:
    drawn = plot({"p50": points}, "s", "ms")
    for x, y in re.findall(r'cx="([^"]+)" cy="([^"]+)"', drawn):
        assert 48 <= float(x) <= 672
        assert 48 <= float(y) <= 192


def test_a_generator_that_was_the_bottleneck_says_so() -> None:
    busy = {**HEALTH, "busy": 0.99, "was_bottleneck": True}
    assert "BOTTLENECK" in as_text(record().summary(), busy)
    assert "BOTTLENECK" in as_html(record(), busy, ABOUT, MACHINE)
    assert "BOTTLENECK" not in as_text(record().summary(), HEALTH)
