"""A body as a request, whatever its size: what is large is parsed beside the event loop, and only its parts may make it
large. Knows no transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.wire import parts, request, websocket
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.protocol.wire.websocket import Bad, Command, Dialect, Start
from tokenrelay.server.settings import Settings

Parsed = TypeVar("Parsed")

THREAD_BYTES: Final = 256 * 1024
"""Less is parsed on the event loop, in about a millisecond."""

BAD_SHARE: Final = 8
"""A message with a fault in it counts for the rate as an eighth of its size: how much of it is parts is not known."""

SIGNS: Final = (b";base64,", b"input_audio")
"""One of them stands in every body whose parts are large."""


async def parsed(raw: bytes, settings: Settings) -> ChatRequest:
    """Raises TokenrelayError like `request.parse_json`, and PAYLOAD_TOO_LARGE for what is large without its parts."""
    return await beside(raw, lambda: _parsed(raw, settings))


async def beside(raw: bytes, parse: Callable[[], Parsed]) -> Parsed:
    """What `parse` makes of a body; of a large one beside the event loop."""
    return parse() if len(raw) <= THREAD_BYTES else await asyncio.to_thread(parse)


def check_rest(raw: bytes, body: ChatRequest, settings: Settings) -> None:
    """Raises TokenrelayError PAYLOAD_TOO_LARGE for a body that is large without its parts."""
    if len(raw) > settings.max_body_bytes and rest(raw, body) > settings.max_body_bytes:
        raise _too_large(settings)


def _parsed(raw: bytes, settings: Settings) -> ChatRequest:
    if len(raw) > settings.max_body_bytes and not any(sign in raw for sign in SIGNS):
        raise _too_large(settings)
    try:
        body = request.parse_json(raw, settings.part_bounds)
    except TokenrelayError as error:
        if error.code == "INVALID_REQUEST" and len(raw) > settings.max_body_bytes:
            raise _too_large(settings) from error
        raise
    check_rest(raw, body, settings)
    return body


def rest(raw: bytes, body: ChatRequest) -> int:
    """What is not the bytes of parts. Some encoders write a slash, of which base64 has many, with a backslash."""
    return len(raw) - raw.count(b"\\") - parts.inline_bytes(body.contents)


# -- over a WebSocket -------------------------------------------------------------------------------------------------


def may_have_parts(frame: str | bytes) -> bool:
    """False: whatever makes it large is no part."""
    if isinstance(frame, str):
        return any(sign.decode() in frame for sign in SIGNS)
    return any(sign in frame for sign in SIGNS)


async def commands(frame: str | bytes, dialect: Dialect, settings: Settings) -> list[Command]:
    """As `websocket.parse_frame` has them. Raises BadFrame."""
    if len(frame) <= THREAD_BYTES:
        return websocket.parse_frame(frame, dialect, settings.part_bounds)
    return await asyncio.to_thread(websocket.parse_frame, frame, dialect, settings.part_bounds)


def rest_of(frame: str | bytes, read: list[Command], settings: Settings) -> int:
    """What is not the bytes of parts. Of a message with a fault a share: its fault is told, however large it is."""
    size = len(frame) - (frame.count("\\") if isinstance(frame, str) else 0)
    for command in read:
        if isinstance(command, Bad):
            return min(len(frame) // BAD_SHARE, settings.max_body_bytes)
        if isinstance(command, Start):
            size -= parts.inline_bytes(command.body.contents)
    return size


def _too_large(settings: Settings) -> TokenrelayError:
    most = settings.max_body_bytes
    return TokenrelayError("PAYLOAD_TOO_LARGE", f"what is not a part has at most {most} bytes", max_bytes=most)
