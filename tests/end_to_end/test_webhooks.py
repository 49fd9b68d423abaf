"""The end of each stream reaches the operator's application: over a receiver that is away, and an edge that dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from tests.fleet import Fleet
from tests.wire import call, start, words
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.store import keys

SECRET = "whsec_" + "QUJD" * 8


class Receiver:
    """An application that stores what it is sent; `answers` is what it does first, one word a request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked = 0
        self.got: list[dict[str, Any]] = []
        self.answers: list[Callable[[], Awaitable[web.Response]]] = []

    async def _take(self, request: web.Request) -> web.Response:
        self.asked += 1
        body = await request.read()
        told = Webhook(SECRET).verify(body, dict(request.headers))
        assert request.headers["webhook-id"] == told["stream_id"]
        if self.answers:
            return await self.answers.pop(0)()
        self.got.append(told)
        return web.Response()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        try:
            yield
        finally:
            await runner.cleanup()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not holds():
            await asyncio.sleep(0.2)


async def until_sent(redis: Any, holds: Callable[[], bool]) -> None:
    """Pauses and leases end at once: a test need not wait for them."""

    def look() -> bool:
        if waiting := redis.zrange(keys.ENDED, 0, -1):
            redis.zadd(keys.ENDED, dict.fromkeys(waiting, 0), xx=True)
        return holds()

    await until(look)


async def status(code: int) -> web.Response:
    return web.Response(status=code, headers={"location": "http://169.254.169.254/"})


def fleet(receiver_port: int) -> Fleet:
    url = f"http://127.0.0.1:{receiver_port}/hook"
    return Fleet(edges=2, env={"TOKENRELAY_WEBHOOK_URL": url, "TOKENRELAY_WEBHOOK_SECRET": SECRET})


def test_every_end_arrives_although_the_receiver_is_away_and_refuses_and_an_edge_dies() -> None:
    async def scene(running: Fleet, receiver: Receiver) -> None:
        one, other = running.urls
        redis = running.redis()
        # Ends while nobody listens.
        done = await start(one, "scripted?tokens=3", metadata={"order": "41"})
        endless = await start(one, "scripted?tokens=100000")
        await call("DELETE", f"{other}/api/streams/{endless}")
        await until(lambda: b"2" in redis.hmget(keys.meta(done), "notify"))  # it was tried again already
        hanging = asyncio.Event()

        async def hang() -> web.Response:
            hanging.set()
            await asyncio.sleep(30)
            return web.Response()

        receiver.answers += [lambda: status(503), lambda: status(302)]
        async with receiver.listening():
            await until_sent(redis, lambda: {each["stream_id"] for each in receiver.got} >= {done, endless})
            told = {each["stream_id"]: each for each in receiver.got}
            assert (told[done]["type"], told[done]["text"]) == ("stream.completed", words(3))
            assert told[done]["metadata"] == {"order": "41"}
            assert told[endless]["type"] == "stream.cancelled"
            # The edge that sends dies while the receiver hangs: the other one sends it once the lease is over.
            receiver.answers.append(hang)
            running.kill_edge(1)
            last = await start(one, "scripted?tokens=2")
            await hanging.wait()
            running.kill_edge(0)
            running.start_edge(1)
            await until_sent(redis, lambda: last in {each["stream_id"] for each in receiver.got})
            await until(lambda: not redis.exists(keys.ENDED))
        assert SECRET not in running.said()
        _, listing, _ = await call("GET", f"{other}/api/streams")
        assert {row["stream_id"]: row.get("metadata") for row in listing["streams"]}[done] == {"order": "41"}
        redis.close()

    receiver = Receiver(free_port())
    with fleet(receiver._port) as running:
        asyncio.run(asyncio.wait_for(scene(running, receiver), 100))
