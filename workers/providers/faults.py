"""What a provider's refusals and mid-stream errors mean to us: statuses and words to `ProviderError`; knows no socket.

`fault_table` says which words mean what.
"""

from __future__ import annotations

import email.utils
import math
import re
from typing import Any, Final

import msgspec

from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.fault_table import (
    BAD_REQUEST_WORDS,
    CONTEXT,
    FAILED,
    MOVED,
    OVERRIDING,
    REFUSED,
    REJECTED,
    SENTENCES,
    STATUSES,
    WORD_ENDINGS,
    WORDS,
    Kind,
)
from tokenrelay.workers.providers.jsontext import UNREADABLE

MAX_RETRY_AFTER_S: Final = 86_400.0
MAX_SAID: Final = 300
MIN_QUOTE: Final = 8
MAX_COMPARED_BYTES: Final = 2 * 1024 * 1024
HIDDEN: Final = "…"

BAD_REQUESTS: Final = (200, 400, 413, 422)
"""Statuses that say no more than that something is wrong; 200: of an error in the stream."""

CLEAR_STATUSES: Final = (401, 408, 429, 529)
"""Statuses that are believed before a sentence about the context: "too many tokens" may also be those of a minute."""


class Fault(msgspec.Struct, frozen=True):
    """Why it failed, in any dialect. `code` is a word, an HTTP status or null; `message` may quote prompts.

    `status` and `details` are Google's (https://google.aip.dev/193), Anthropic's `details` hold an `error_code`,
    `metadata` is OpenRouter's.
    """

    message: Any = None
    type: Any = None
    code: Any = None
    status: Any = None
    details: Any = None
    metadata: Any = None
    param: Any = None


class Envelope(msgspec.Struct, frozen=True):
    """Every dialect wraps it so. Some servers send it bare: then its own fields stand here (vLLM, Mistral, FastAPI)."""

    error: Any = None
    object: Any = None
    message: Any = None
    type: Any = None
    code: Any = None
    detail: Any = None


# Google's servers may wrap a list round it.
_BODY: Final[msgspec.json.Decoder[Envelope | list[Envelope]]] = msgspec.json.Decoder(Envelope | list[Envelope])

_WORD: Final = re.compile("[A-Za-z_]{1,80}")


def failure(status: int, body: bytes = b"", retry_after: str | None = None, now_s: float = 0.0) -> ProviderError:
    """What an HTTP status other than 200 means. `now_s` is Unix time, needed when `retry_after` is a date."""
    fault = fault_of(body)
    wait_s = parse_retry_after(retry_after, now_s)
    if wait_s is None:
        wait_s = _retry_delay_s(fault)
    return _error(kind_of(fault, status) or _kind_of_status(status), wait_s)


def mid_stream_failure(fault: Fault | str) -> ProviderError:
    """What an error event in an answer that began with status 200 means."""
    status = status_of(fault)
    kind = kind_of(fault, status or 200)
    if kind is None and status is not None:
        kind = _kind_of_status(status)
    if kind is not None:
        return _error(kind, _retry_delay_s(fault))
    return ProviderError("the model's provider failed in the middle of the answer", retryable=True)


def _kind_of_status(status: int) -> Kind:
    if status in STATUSES:
        return STATUSES[status]
    return FAILED if status >= 500 else MOVED if 300 <= status < 400 else REJECTED


def status_of(fault: Fault | str | None) -> int | None:
    """The HTTP status that an error in the stream names as its code."""
    code = str(fault.code) if isinstance(fault, Fault) else ""
    return int(code) if code.isascii() and code.isdigit() and len(code) == 3 and 400 <= int(code) <= 599 else None


def kind_of(fault: Fault | str | None, status: int) -> Kind | None:
    """What its words and sentences say beside the status; None when that is nothing we know."""
    said, message = words(fault), sentence_of(fault)
    if kind := next((kind for pattern, kind in OVERRIDING if pattern.search(message)), None):
        return kind
    for word in said:
        if kind := WORDS.get(word) or WORDS.get(word.lower()):
            return kind
        if kind := next((kind for ending, kind in WORD_ENDINGS.items() if word.endswith(ending)), None):
            return kind
    if isinstance(fault, Fault) and isinstance(fault.metadata, dict) and "flagged_input" in fault.metadata:
        return REFUSED  # OpenRouter's moderation
    kind = next((kind for pattern, kind in SENTENCES if pattern.search(message)), None)
    if kind is not None and not (kind is CONTEXT and status in CLEAR_STATUSES):
        return kind
    if status in BAD_REQUESTS:
        return next((BAD_REQUEST_WORDS[word] for word in said if word in BAD_REQUEST_WORDS), None)
    return None


def fault_of(body: bytes) -> Fault | str | None:
    """None when the body says nothing that can be read."""
    try:
        found = _BODY.decode(body)
    except UNREADABLE:
        return None
    if isinstance(found, list):
        if not found:
            return None
        found = found[0]
    return fault_in(found)


def fault_in(envelope: Envelope) -> Fault | None:
    """The fault in an envelope, or the envelope itself where a server sends it bare."""
    if isinstance(envelope.error, dict):
        known = {name: envelope.error[name] for name in Fault.__struct_fields__ if name in envelope.error}
        return Fault(**known)
    if envelope.error not in (None, False, ""):
        return Fault(message=envelope.error, type=envelope.type, code=envelope.code)
    if envelope.object == "error" or envelope.detail is not None or envelope.message is not None:
        message = envelope.detail if envelope.message is None else envelope.message
        return Fault(message=message, type=envelope.type, code=envelope.code)
    return None


def sentence_of(fault: Fault | str | None) -> str:
    """Its message as text. It may quote the prompt: to be looked at, not shown."""
    message = fault.message if isinstance(fault, Fault) else fault
    return message if isinstance(message, str) else "" if message is None else str(message)


def words(fault: Fault | str | None) -> tuple[str, ...]:
    """Its codes and types, as far as they are words: letters and underscores. Never its message, which may quote the
    prompt or a key."""
    if not isinstance(fault, Fault):
        return ()
    details = _details(fault)
    said = [detail.get("error_code") for detail in details] + [detail.get("reason") for detail in details]
    said += [fault.code, fault.type, fault.status]
    return tuple(word for word in said if isinstance(word, str) and _WORD.fullmatch(word))


def quotable(message: str, request: bytes, *headers: str) -> str:
    """At most `MAX_SAID` characters of a provider's sentence for the log, without what it quotes of the request: every
    run of `MIN_QUOTE` or more characters that also stands in its body or in one of its headers is replaced."""
    if len(request) > MAX_COMPARED_BYTES:
        return HIDDEN  # comparing would hold up every other answer
    # As it was sent, and as it reads: a quoted line break is one character again.
    sent = request.decode("utf-8", "replace")
    read = sent.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t").replace("\\\\", "\\")
    message = message[: MAX_SAID * 4]
    shown: list[str] = []
    at = 0
    while at < len(message):
        size = _quoted(message, at, sent, read, *headers)
        if size:
            shown.append(HIDDEN)
            at += size
        else:
            shown.append(message[at])
            at += 1
    return "".join(shown)[:MAX_SAID]


def _quoted(message: str, at: int, *texts: str) -> int:
    """How many characters from `at` on stand in one of the texts; 0 for fewer than `MIN_QUOTE`."""
    longest = 0
    for text in texts:
        size = MIN_QUOTE
        while at + size <= len(message) and message[at : at + size] in text:
            longest = max(longest, size)
            size += 1
    return longest


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


def _error(kind: Kind, retry_after_s: float | None = None) -> ProviderError:
    wait_s = kind.retry_after_s if retry_after_s is None else retry_after_s
    return ProviderError(
        kind.message,
        code=kind.code,
        retryable=kind.retryable,
        retry_after_s=wait_s if kind.blame == "provider" else None,
        blame=kind.blame,
        is_ill=kind.is_ill,
    )


def _details(fault: Fault) -> list[dict[str, Any]]:
    """Google has a list of them, Anthropic one."""
    details = fault.details if isinstance(fault.details, list) else [fault.details]
    return [detail for detail in details if isinstance(detail, dict)]


def _retry_delay_s(fault: Fault | str | None) -> float | None:
    """Google says how long to wait in the body: a `RetryInfo` detail, `"retryDelay": "17s"`."""
    if not isinstance(fault, Fault):
        return None
    delays = (detail.get("retryDelay") for detail in _details(fault))
    delay = next((delay for delay in delays if isinstance(delay, str)), None)
    return None if delay is None else parse_retry_after(delay.removesuffix("s"), 0.0)
