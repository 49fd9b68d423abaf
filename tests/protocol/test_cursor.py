"""What a client may send as cursor, and what it is answered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.cases import pure, vectors
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import cursor
from tokenrelay.protocol.wire.cursor import Answer

CASES = vectors("cursors")["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_cursor_is_answered_as_the_vector_says(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(TokenrelayError) as caught:
            cursor.answer(cursor.parse(case["text"]), case["last_id"], case["ended"])
        assert caught.value.code == case["error"]
        return
    after = cursor.parse(case["text"])
    assert after == case["after"]
    assert cursor.answer(after, case["last_id"], case["ended"]) is Answer[case["answer"].upper()]


def test_a_cursor_ahead_is_told_the_last_id() -> None:
    with pytest.raises(TokenrelayError) as caught:
        cursor.answer(9, 5, ended=False)
    assert caught.value.fields == {"last_event_id": 5}


@given(st.integers(0, cursor.MAX_ID))
@pure
def test_every_id_that_was_given_is_a_cursor(event_id: int) -> None:
    assert cursor.parse(str(event_id)) == cursor.parse(event_id) == event_id


others = st.sampled_from([2**53, 2**64, -7, 0.5, float("nan"), b"3", [3], {}, (), True])


@given(st.text("0123456789-+. eE_\n\0\u0663", max_size=18) | others)
@pure
def test_anything_else_is_an_id_or_refused(value: Any) -> None:
    assert 0 <= parsed(value) <= cursor.MAX_ID


def parsed(value: Any) -> int:
    try:
        return cursor.parse(value)
    except TokenrelayError as error:
        return 0 if error.code == "INVALID_CURSOR" else -1
