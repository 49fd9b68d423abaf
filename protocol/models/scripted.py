"""The scripted model's name, parsed: `scripted?tokens=200&interval_ms=20`. Knows the script, not how it is
played."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from tokenrelay.protocol.errors import TokenrelayError

NAME: Final = "scripted"
MAX_TOKENS: Final = 1_000_000
MAX_MS: Final = 3_600_000


class ScriptedSpec(msgspec.Struct, frozen=True):
    """What to play. Counts are tokens; None means never."""

    tokens: int = 20
    interval_ms: int = 20
    first_ms: int = 0
    fail_after: int | None = None
    stall_after: int | None = None
    tool_after: int | None = None


_BOUNDS: Final = {
    "tokens": MAX_TOKENS,
    "interval_ms": MAX_MS,
    "first_ms": MAX_MS,
    "fail_after": MAX_TOKENS,
    "stall_after": MAX_TOKENS,
    "tool_after": MAX_TOKENS,
}


def is_scripted(model: str) -> bool:
    return model.partition("?")[0].lower() == NAME


def parse(model: str) -> ScriptedSpec:
    """The script a name asks for. Raises TokenrelayError VALIDATION_ERROR, field `model`."""
    values: dict[str, Any] = {}
    for name, text in parse_qsl(model.partition("?")[2], keep_blank_values=True):
        most = _BOUNDS.get(name)
        if most is None:
            raise _invalid(f"unknown parameter {name[:40]!r}, expected one of {', '.join(_BOUNDS)}")
        if not (text.isascii() and text.isdigit() and len(text) < 9) or int(text) > most:
            raise _invalid(f"{name} is an integer from 0 to {most}, got {text[:40]!r}")
        values[name] = int(text)
    return ScriptedSpec(**values)


def _invalid(issue: str) -> TokenrelayError:
    return TokenrelayError("VALIDATION_ERROR", f"model: {issue}", field="model", issue=issue)
