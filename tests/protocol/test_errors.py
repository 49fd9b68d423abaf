"""Every error a client can meet: its row, and its three shapes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.protocol.cases import PROTOCOL, vectors
from tokenrelay.protocol import errors
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import event_json, sse, websocket
from tokenrelay.protocol.wire.websocket import Close

ROWS = vectors("errors")["rows"]
REFUSALS = vectors("errors")["refusals"]


def test_the_table_is_the_vectors() -> None:
    assert [(row.code, row.status, row.retryable, row.close_code) for row in errors.ROWS] == [
        (row["code"], row["status"], row["retryable"], row["ws_close"]) for row in ROWS
    ]


def test_no_code_stands_there_twice_and_codes_shout() -> None:
    assert len(errors.TABLE) == len(errors.ROWS)
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code) for code in errors.TABLE)


def test_close_codes_are_known_ones() -> None:
    assert {row.close_code for row in errors.ROWS} - {None} <= set(Close)


@pytest.mark.parametrize("row", errors.ROWS, ids=lambda row: row.code)
def test_a_row_makes_sense(row: errors.Row) -> None:
    assert 400 <= row.status <= 504
    assert row.meaning[0].islower()
    assert not row.meaning.endswith(".")
    # What the client did wrong it will do wrong again; the time of day heals only the rest.
    assert row.retryable == (row.status >= 500 or row.status == 429)


@pytest.mark.parametrize("case", REFUSALS, ids=[case["name"] for case in REFUSALS])
def test_a_refusal_is_told_as_the_vector_says(case: dict[str, Any]) -> None:
    error = TokenrelayError(case["code"], case["message"], **case["fields"])
    assert event_json.to_json(error.body(case["request_id"])) == case["body"]
    assert sse.encode_frame(event_json.to_json(error.event_data(case["request_id"]))).decode() == case["sse"]
    message = websocket.error_message(websocket.JSON, error, case["ref"], case["stream_id"])
    assert json.loads(message) == json.loads(case["ws_json"])


def test_what_is_none_is_left_out() -> None:
    assert TokenrelayError("TIMEOUT", retry_after=None, field=None).fields == {}


def test_an_unknown_code_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        TokenrelayError("NO_SUCH_CODE")


def test_retry_after_is_a_number_of_seconds_or_none() -> None:
    assert TokenrelayError("RATE_LIMIT", retry_after=3).retry_after_s == 3.0
    assert TokenrelayError("RATE_LIMIT").retry_after_s is None


def test_every_code_named_in_the_protocol_is_a_row() -> None:
    named = {
        code
        for path in PROTOCOL.glob("*.py")
        for code in re.findall(r"TokenrelayError\(\s*\"(\w+)\"", path.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= errors.TABLE.keys()
