"""What a maker's refusals and mid-stream errors mean to us: statuses and words to `ProviderError`; knows no socket."""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenrelay.workers.providers.base import Blame, ProviderError
from tokenrelay.workers.providers.jsontext import UNREADABLE

MAX_RETRY_AFTER_S: Final = 86_400.0


class Fault(msgspec.Struct, frozen=True):
    """Why it failed, in any dialect. `code` is a word, an HTTP status or null; `message` may quote prompts.

    `status` and `details` are Google's (https://google.aip.dev/193).
    """

    message: Any = None
    type: Any = None
    code: Any = None
    status: Any = None
    details: Any = None


class Envelope(msgspec.Struct, frozen=True):
    """Every dialect wraps it so."""

    error: Fault | str | None = None


# Google's servers may wrap a list round it.
_BODY: Final[msgspec.json.Decoder[Envelope | list[Envelope]]] = msgspec.json.Decoder(Envelope | list[Envelope])

_WORD: Final = re.compile("[A-Za-z_]{1,80}")

_TOO_LONG = ("PROVIDER_ERROR", "the conversation is longer than the model's context", False)
_LIMITED = ("RATE_LIMIT", "the model's maker takes no more requests for now", True)
_REJECTED = ("PROVIDER_ERROR", "the model's maker did not accept the request", False)
_REFUSED = ("PROVIDER_ERROR", "the model's maker refused to answer this", False)
_LOCKED_OUT = ("PROVIDER_ERROR", "the model's maker did not accept this server's credentials", False)
_UNKNOWN = ("PROVIDER_ERROR", "the model's maker does not know this model", False)
_FAILED = ("PROVIDER_ERROR", "the model's maker failed to answer", True)
_GAVE_UP = ("TIMEOUT", "the model's maker gave up waiting", True)

_BLAMES: Final[Mapping[tuple[str, str, bool], Blame]] = {
    _TOO_LONG: "context_window",
    _UNKNOWN: "model",
    _LOCKED_OUT: "key",
}

_WORDS: Final[Mapping[str, tuple[str, str, bool]]] = {
    # OpenAI, and who speaks like it: https://platform.openai.com/docs/guides/error-codes
    "context_length_exceeded": _TOO_LONG,
    "exceed_context_size_error": _TOO_LONG,  # llama.cpp
    "rate_limit_exceeded": _LIMITED,
    "content_filter": _REFUSED,
    "content_policy_violation": _REFUSED,
    "invalid_prompt": _REFUSED,
    "bio_policy": _REFUSED,
    "misalignment_policy_violation": _REFUSED,
    # Anthropic: https://platform.claude.com/docs/en/api/errors
    "invalid_request_error": _REJECTED,
    "rate_limit_error": _LIMITED,
    "authentication_error": _LOCKED_OUT,
    "permission_error": _LOCKED_OUT,
    "billing_error": _LOCKED_OUT,
    "not_found_error": _UNKNOWN,
    "request_too_large": _TOO_LONG,
    "timeout_error": _GAVE_UP,
    # Google: https://ai.google.dev/gemini-api/docs/troubleshooting
    "API_KEY_INVALID": _LOCKED_OUT,  # comes with status 400
    "RESOURCE_EXHAUSTED": _LIMITED,
    "INVALID_ARGUMENT": _REJECTED,
    "FAILED_PRECONDITION": _REJECTED,
    "PERMISSION_DENIED": _LOCKED_OUT,
    "UNAUTHENTICATED": _LOCKED_OUT,
    "NOT_FOUND": _UNKNOWN,
    "DEADLINE_EXCEEDED": _GAVE_UP,
}
"""What a fault's words mean where the status alone does not say it: (our code, sentence, retryable)."""


def failure(status: int, body: bytes = b"", retry_after: str | None = None, now_s: float = 0.0) -> ProviderError:
    """What an HTTP status other than 200 means. `now_s` is Unix time, needed when `retry_after` is a date."""
    fault = fault_of(body)
    wait_s = parse_retry_after(retry_after, now_s)
    if wait_s is None:
        wait_s = _retry_delay_s(fault)
    if status in (400, 413, 422) and (known := _known(fault)) is not None:
        return _error(known, wait_s)
    return _by_status(status, wait_s)


def mid_stream_failure(fault: Fault | str) -> ProviderError:
    """What an error event in an answer that began with status 200 means."""
    known = _known(fault)
    if known is not None:
        return _error(known, _retry_delay_s(fault))
    if isinstance(fault, Fault):
        status = str(fault.code)
        if status.isascii() and status.isdigit() and 400 <= int(status[:4]) <= 599:
            return _by_status(int(status), _retry_delay_s(fault))
    return ProviderError("the model's maker failed in the middle of the answer", retryable=True)


def fault_of(body: bytes) -> Fault | str | None:
    """None when the body says nothing that can be read."""
    try:
        found = _BODY.decode(body)
    except UNREADABLE:
        return None
    if isinstance(found, list):
        return found[0].error if found else None
    return found.error


def words(fault: Fault | str | None) -> tuple[str, ...]:
    """Its codes and types, as far as they are words: letters and underscores. Never its message, which may quote the
    prompt or a key."""
    if not isinstance(fault, Fault):
        return ()
    reasons = [detail.get("reason") for detail in _details(fault)]
    said = (*reasons, fault.code, fault.type, fault.status)
    return tuple(word for word in said if isinstance(word, str) and _WORD.fullmatch(word))


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds to wait (RFC 9110 section 10.2.3: seconds or an HTTP date); None when it says nothing usable."""
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S) if math.isfinite(wait_s) else None


def _by_status(status: int, retry_after_s: float | None = None) -> ProviderError:
    if status == 429:
        return _error(_LIMITED, retry_after_s)
    if status in (401, 403):
        return _error(_LOCKED_OUT)
    if status == 404:
        return _error(_UNKNOWN)
    if status == 408:
        return _error(_GAVE_UP)
    if status == 409 or status >= 500:
        return _error(_FAILED, retry_after_s)
    return _error(_REJECTED)


def _error(known: tuple[str, str, bool], retry_after_s: float | None = None) -> ProviderError:
    code, message, retryable = known
    return ProviderError(message, code=code, retryable=retryable, retry_after_s=retry_after_s, blame=_BLAMES.get(known))


def _known(fault: Fault | str | None) -> tuple[str, str, bool] | None:
    if isinstance(fault, Fault) and str(fault.message).startswith("prompt is too long"):
        return _TOO_LONG  # Anthropic has no word of its own for it
    return next((_WORDS[word] for word in words(fault) if word in _WORDS), None)


def _details(fault: Fault) -> list[dict[str, Any]]:
    return [detail for detail in fault.details if isinstance(detail, dict)] if isinstance(fault.details, list) else []


def _retry_delay_s(fault: Fault | str | None) -> float | None:
    """Google says how long to wait in the body: a `RetryInfo` detail, `"retryDelay": "17s"`."""
    if not isinstance(fault, Fault):
        return None
    delays = (detail.get("retryDelay") for detail in _details(fault))
    delay = next((delay for delay in delays if isinstance(delay, str)), None)
    return None if delay is None else parse_retry_after(delay.removesuffix("s"), 0.0)
