"""Optional fields of a provider's API, which nobody asked for: sent at first, no more once a server has refused them.

body with all fields ──▶ 400 that names one ──▶ the body without it, once more ──▶ remembered for this model
"""

from __future__ import annotations

import re
from typing import Final

import msgspec


class OptionalFields(msgspec.Struct, frozen=True):
    """Asked for where the dialect has it: to be told thoughts, sealed thoughts, the echo of earlier turns, a prompt
    cache, tool input as it is written, and usage."""

    thinking: bool = True
    sealed: bool = True
    echo: bool = True
    cache: bool = True
    eager: bool = True
    usage: bool = True


class RefusedField(msgspec.Struct, frozen=True):
    """A refusal whose words match `pattern` gives up `field`; for good, or for this one request."""

    field: str
    pattern: re.Pattern[str]
    is_remembered: bool = True


STATUSES: Final = (400, 422)


def _row(field: str, pattern: str, *, is_remembered: bool = True) -> RefusedField:
    return RefusedField(field, re.compile(pattern, re.IGNORECASE | re.DOTALL), is_remembered)


_ODD: Final = r"unsupported|not supported|extra|unknown|unrecognized|not permitted|forbidden|not allowed|unexpected"

RESPONSES: Final = (
    # "Your organization must be verified to generate reasoning summaries"
    _row("thinking", r"reasoning\.summary|reasoning summar"),
    _row("sealed", r"encrypted content is not supported"),
    _row("echo", r"invalid_encrypted_content|encrypted[_ ]content", is_remembered=False),
    _row("cache", r"prompt_cache_key"),
)
ANTHROPIC: Final = (
    _row("eager", r"eager_input_streaming"),
    _row("cache", r"cache_control"),
    _row("echo", r"signature|(redacted_)?thinking.{0,3} block", is_remembered=False),
    _row("thinking", r"\bthinking\b|adaptive"),
)
GEMINI: Final = (
    _row("echo", r"thought.?signature", is_remembered=False),
    _row("thinking", r"\bthinking|include_?thoughts"),
)
CHAT_COMPLETIONS: Final = (
    _row("usage", r"stream_options|include_usage"),
    _row("echo", rf"({_ODD}).{{0,120}}(reasoning|extra_content)|(reasoning|extra_content).{{0,120}}({_ODD})"),
    _row("echo", r"reasoning|extra_content|thought.?signature", is_remembered=False),
)


def refused_field(refused_fields: tuple[RefusedField, ...], said: str, extras: OptionalFields) -> RefusedField | None:
    """The first of the fields asked for that `said` speaks against; None: it speaks of none."""
    return next((row for row in refused_fields if getattr(extras, row.field) and row.pattern.search(said)), None)


def without(extras: OptionalFields, row: RefusedField) -> OptionalFields:
    return msgspec.structs.replace(extras, **{row.field: False})
