"""A cursor as people write it: protocol/README.md, section 4."""

from __future__ import annotations

import re
from typing import Final

from tokenrelay_client.errors import Refused

MAX_ID: Final = 2**53 - 1
"""Ids stay exact in JavaScript (ECMA-262 Number.MAX_SAFE_INTEGER)."""

_FROM_THE_START: Final = frozenset({"", "0", "-", "-1"})
_DIGITS: Final = re.compile(r"[0-9]{1,16}\Z")


def parse(value: str | int | None) -> int:
    """The id after which to go on; 0 for the start. Raises Refused INVALID_CURSOR."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _invalid(value)
    text = str(value).strip(" ")
    if text in _FROM_THE_START:
        return 0
    if not _DIGITS.match(text) or int(text) > MAX_ID:
        raise _invalid(value)
    return int(text)


def _invalid(value: object) -> Refused:
    message = f"a cursor is an event id: an integer from 0 to {MAX_ID}, got {str(value)[:40]!r}"
    return Refused("INVALID_CURSOR", message, details={"field": "after"})
