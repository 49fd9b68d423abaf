"""The measurement of what a chunk costs: every chunk of both readers is counted, and the table says what was lost."""

from __future__ import annotations

import pytest

from tests import upstream_cost
from tests.upstream_cost import DIALECTS, Row, table, wire_of
from tests.workers.oracle import sdks


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_is_taken_apart_at_its_text(dialect: str) -> None:
    wire = wire_of(dialect)
    assert (b"Hel" in wire.head, b"Hel" in wire.delta, b'"!"' in wire.tail) == (False, True, True)


def test_both_readers_get_every_chunk() -> None:
    sdks.sdk("chat_completions")
    row = upstream_cost.measure("chat_completions", streams=3, chunks=2)
    assert row.ours_us
    assert row.sdk_us


def test_a_reader_that_lost_chunks_has_no_figure() -> None:
    said = table([Row("responses", 40.0, 160.0), Row("gemini", None, 90.0)])
    assert "| responses | 40 µs | 160 µs | openai | 25% |" in said
    assert "| gemini | chunks were lost | 90 µs | google-genai | none |" in said
