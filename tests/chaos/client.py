"""A client on a bad day: drops, comes back on any edge over either transport, and checks every id and every byte."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
from websockets.exceptions import InvalidStatus, WebSocketException

from tests.wire import EventPair, Sse, Ws, words

PATIENCE_S = 60.0
"""One stream, troubles included."""

AWAY = (aiohttp.ClientError, OSError, TimeoutError, WebSocketException, EOFError)


IDLE_S = 6.0
"""Silence after which it takes a connection for dead: two heartbeats of this fleet and a bit."""


class Broken(AssertionError):
    """A promise did not hold."""


class Wanderer:
    """One generation, read to its end by a reader that wanders."""

    def __init__(self, urls: list[str], dice: random.Random, name: str) -> None:
        self._urls = urls
        self._dice = dice
        self._key = name
        self.tokens = dice.choice([1, 20, 100, 300])
        pace = dice.choice([0, 5, 20])
        tool = f"&tool_after={self.tokens // 2}" if dice.random() < 0.2 else ""
        self.body = {"message": "hello", "model": f"scripted?tokens={self.tokens}&interval_ms={pace}{tool}"}
        self.stream_id = ""
        self.cursor = 0
        self.text = ""
        self.end: dict[str, Any] | None = None  # None until the terminal event came
        self.reconnects = -1

    def __repr__(self) -> str:
        return f"<Wanderer {self._key} {self.stream_id} at {self.cursor}>"

    async def run(self) -> Wanderer:
        """Raises Broken, naming the stream, when it has not ended in time or something is not as it was written."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self.end is None:
                    self.reconnects += 1
                    try:
                        await self._visit()
                    except AWAY:
                        await asyncio.sleep(self._dice.uniform(0.05, 0.5))
        except TimeoutError as error:
            raise Broken(f"{self!r} has not ended within {PATIENCE_S:.0f} s") from error
        self._judge()
        return self

    async def _visit(self) -> None:
        """One connection, until it ends or we drop it."""
        url = self._dice.choice(self._urls)
        drop = self._dice.choice([None, None, 1, 5, 40])
        if self._dice.random() < 0.5:
            await self._over_sse(url, drop)
        else:
            await self._over_socket(url, drop)

    async def _over_sse(self, url: str, drop: int | None) -> None:
        if self.stream_id:
            stream = Sse.get(url, self.stream_id, self.cursor, replay=self._dice.choice(["exact", "compact"]))
        else:
            stream = Sse.post(url, self.body, {"Idempotency-Key": self._key})
        stream.idle_s = IDLE_S
        async with stream:
            if stream.status == 503:
                raise ConnectionError("refused")
            if stream.status != 200:
                raise Broken(f"{self!r}: status {stream.status}")
            self.stream_id = stream.stream_id
            taken = 0
            async for event in stream:
                self._take(event)
                taken += 1
                if self.end is not None or taken == drop:
                    return

    async def _over_socket(self, url: str, drop: int | None) -> None:
        connection = Ws(url, binary=self._dice.random() < 0.5)
        connection.idle_s = IDLE_S
        try:
            async with asyncio.timeout(IDLE_S):
                await connection.__aenter__()
        except InvalidStatus as refused:
            if refused.response.status_code != 503:
                raise Broken(f"{self!r}: the handshake's status {refused.response.status_code}") from refused
            raise
        try:
            await self._read_socket(connection, drop)
        finally:
            await connection.__aexit__()

    async def _read_socket(self, socket: Ws, drop: int | None) -> None:
        if self.stream_id:
            answer = await socket.resume(self.stream_id, self.cursor)
        else:
            await socket.say({"type": "start", "ref": "s", "idempotency_key": self._key, **self.body})
            answer = await socket.hear()
        if answer["type"] != "started":
            if answer.get("error_code") in ("SERVICE_UNAVAILABLE", None):
                raise ConnectionError("refused")
            raise Broken(f"{self!r}: {answer}")
        self.stream_id = answer["stream_id"]
        taken = 0
        while self.end is None and taken != drop:
            message = await socket.hear()
            if message["type"] == "reconnect":
                return
            if message["type"] != "event":
                raise Broken(f"{self!r}: {message}")
            self._take((message["id"], message["data"]))
            taken += 1

    def _take(self, event: EventPair) -> None:
        entry_id, data = event
        if entry_id is None:
            if data.get("error_code"):
                raise Broken(f"{self!r}: {data}")
            return
        if entry_id <= self.cursor:
            raise Broken(f"{self!r}: {entry_id} came again")
        self.cursor = entry_id
        self.text += data["token"]
        if data["done"]:
            self.end = data

    def _judge(self) -> None:
        assert self.end is not None
        whole = words(self.tokens)
        if self.end.get("finish_reason") == "stop":
            if self.text != whole:
                raise Broken(f"{self!r}: {len(self.text)} characters of {len(whole)}")
        elif self.end.get("error_code") == "WORKER_LOST":
            if not whole.startswith(self.text):
                raise Broken(f"{self!r}: what it has is not the beginning of what was written")
        else:
            raise Broken(f"{self!r}: ended in {self.end}")
