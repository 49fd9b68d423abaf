"""A reader's position: what a client may send as a cursor, and the answer to each. Knows no transport."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from tokenrelay.protocol.errors import TokenrelayError

MAX_ID: Final = 2**53 - 1
"""Ids stay exact in JavaScript (ECMA-262 Number.MAX_SAFE_INTEGER)."""

FROM_THE_START: Final[frozenset[str]] = frozenset({"", "0", "-", "-1"})
_DIGITS: Final = re.compile(r"[0-9]{1,16}\Z")


class Answer(Enum):
    """What a reader with a valid cursor gets."""

    FOLLOW = "what follows, then live"
    REPLAY = "what follows; the stream has ended"
    NOTHING_MORE = "204: it has the terminal event already"


def parse(text: str | int | None) -> int:
    """The id after which to go on; 0 for the start.

    Raises TokenrelayError INVALID_CURSOR for anything that is not an event id.
    """
    if text is None:
        return 0
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise _invalid()
    text = str(text).strip(" ")
    if text in FROM_THE_START:
        return 0
    if not _DIGITS.match(text) or int(text) > MAX_ID:
        raise _invalid()
    return int(text)


def answer(cursor: int, last_id: int, ended: bool) -> Answer:
    """Decide by the table of the wire text. Raises TokenrelayError CURSOR_AHEAD."""
    if cursor > last_id:
        raise TokenrelayError(
            "CURSOR_AHEAD", f"the cursor {cursor} is beyond the last event, {last_id}", last_event_id=last_id
        )
    if not ended:
        return Answer.FOLLOW
    return Answer.NOTHING_MORE if cursor == last_id else Answer.REPLAY


def _invalid() -> TokenrelayError:
    return TokenrelayError("INVALID_CURSOR", f"a cursor is an event id: an integer from 0 to {MAX_ID}", field="after")
