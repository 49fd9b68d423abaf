"""Receivers that misbehave: one of them costs its own webhook, is believed little, and none of it stands in the log."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
import structlog

from tokenrelay.protocol.store.scripts import Ended
from tokenrelay.server.settings import Settings
from tokenrelay.server.webhooks import sender as module
from tokenrelay.server.webhooks.sender import Sender

SECRET = "whsec_" + base64.b64encode(b"a planted secret of 32 bytes....").decode()
MARK = "planted-mark"
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 65536
ENDLESS_HEAD = b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 200_000


class Receiver:
    """Answers each request with the same bytes, and counts them and what is asked elsewhere."""

    def __init__(self, answer: bytes, *, stays: bool = False) -> None:
        self.answer, self.stays = answer, stays
        self.asked = 0
        self.under_way: list[asyncio.Task[Any] | None] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self.under_way.append(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(size)
        writer.write(self.answer)
        if self.stays:
            await reader.read()  # until the other side gives it up
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def posted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, patience_s: float = 10.0) -> tuple[int, float, str]:
    """Status, pause that is asked for, and all that was logged."""
    monkeypatch.setattr(module, "TIMEOUT_S", patience_s)

    async def scene() -> tuple[int, float]:
        server = await asyncio.start_server(receiver, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        receiver.answer = receiver.answer.replace(b"{port}", str(port).encode())
        settings = Settings(webhook_url=f"http://127.0.0.1:{port}/{MARK}?t={MARK}", webhook_secret=SECRET)
        sender = Sender(settings, *cast(Any, (None, None, SimpleNamespace())))
        timeout = aiohttp.ClientTimeout(total=patience_s)
        async with server, aiohttp.ClientSession(timeout=timeout) as session, asyncio.timeout(30):
            answer = await sender._post(session, Ended("stream-1", 1, 0), f'{{"text":"{MARK}"}}'.encode())
        await asyncio.gather(*filter(None, receiver.under_way), return_exceptions=True)
        return answer

    with structlog.testing.capture_logs() as said:
        status, pause_s = asyncio.run(scene())
    return status, pause_s, repr(said)


@pytest.mark.parametrize(
    ("answer", "stays", "expected"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/elsewhere\r\nContent-Length: 0\r\n\r\n", False, 302),
        (b"HTTP/1.1 307 Again\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", False, 307),
        (HUGE, False, 200),  # its head is all that is read of it
        (ENDLESS_HEAD, True, 0),
        (b"", True, 0),  # it says nothing
        (f"HTTP/1.1 400 {MARK}\r\nContent-Length: {len(MARK)}\r\n\r\n{MARK}".encode(), False, 400),
        (f"{MARK}\r\n\r\n".encode(), False, 0),
    ],
)
def test_a_receiver_is_asked_once_and_nothing_of_it_is_logged(
    answer: bytes, stays: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver(answer, stays=stays)
    status, _, said = posted(receiver, monkeypatch, patience_s=2.0 if stays else 10.0)
    assert status == expected
    assert receiver.asked == 1  # no redirect is followed, nothing is sent twice at once
    assert MARK not in said
    assert SECRET[6:] not in said


@pytest.mark.parametrize(
    ("asked", "pause_s"),
    [("7", 7.0), ("-1", 0.0), ("1e9", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("9" * 400, 0.0)],
)
def test_a_pause_that_is_asked_for_is_a_number_of_seconds(
    asked: str, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = f"HTTP/1.1 503 Busy\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n".encode()
    assert posted(Receiver(answer), monkeypatch)[:2] == (503, pause_s)
