"""Redis answers, but with errors; or it holds what nobody of ours wrote. It is waited for, one stream fails in words,
and no process is left deaf."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest
from redis.exceptions import ResponseError

from tests.fleet import Fleet, one_server, until, workers_seen
from tests.wire import Sse, Ws, call, start, text_of, whole, words
from tokenrelay.protocol.store import keys

RECOVERED_S = 10.0
"""All is well this long after the trouble's end; at most five seconds lie between two tries."""

pytestmark = one_server("its states are those of one")


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(RECOVERED_S):
        while not await holds():
            await asyncio.sleep(0.1)
    assert True, what


async def ready(url: str) -> tuple[int, dict[str, Any]]:
    status, body, _ = await call("GET", f"{url}/readyz")
    return status, body


def test_rights_to_channels_that_come_late_are_waited_for_by_edge_and_worker_alike() -> None:
    with Fleet(edges=0, workers=0) as fleet:
        redis = fleet.redis()
        redis.execute_command("ACL", "SETUSER", "default", "resetchannels")
        url = fleet.add_edge()
        fleet.start_worker()
        until(lambda: workers_seen_of(url) == 1, f"no worker\n{fleet.logs()}", OSError)
        time.sleep(1)
        assert asyncio.run(ready(url))[0] == 503
        assert "NOPERM" in fleet.said()
        assert fleet.workers[0].poll() is None
        redis.execute_command("ACL", "SETUSER", "default", "allchannels")

        async def scene() -> None:
            async def is_ready() -> bool:
                return (await ready(url))[0] == 200

            await eventually(is_ready, "ready")
            # And again while an answer is under way: it arrives whole.
            stream_id = await start(url, "scripted?tokens=100&interval_ms=30")
            reader = asyncio.create_task(whole(url, stream_id))
            await asyncio.sleep(1)
            redis.execute_command("ACL", "SETUSER", "default", "resetchannels")
            await asyncio.sleep(2)
            redis.execute_command("ACL", "SETUSER", "default", "allchannels")
            assert text_of(await reader) == words(100)
            await eventually(is_ready, "ready again")
            await text_of_one(url)

        asyncio.run(scene())
        assert fleet.workers[0].poll() is None
        assert not fleet.tracebacks()


def workers_seen_of(url: str) -> int:
    """`/readyz` is 503 with a body all the same."""
    import urllib.error

    try:
        return workers_seen(url)
    except urllib.error.HTTPError as error:
        return int(json.load(error)["workers"])


async def text_of_one(url: str) -> None:
    stream_id = await start(url, "scripted?tokens=5&interval_ms=0")
    assert text_of(await whole(url, stream_id)) == words(5)


@pytest.fixture(scope="module")
def one() -> Any:
    with Fleet(edges=1, workers=1) as fleet:
        yield fleet


def test_a_reader_that_resumes_while_redis_is_busy_gets_its_stream(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        stream_id = await start(url, "scripted?tokens=5&interval_ms=0")
        assert text_of(await whole(url, stream_id)) == words(5)
        redis.config_set("lua-time-limit", "100")
        busy = threading.Thread(target=_keep_busy, args=(one, 2.0))
        busy.start()
        await asyncio.sleep(0.5)
        assert text_of(await whole(url, stream_id)) == words(5)
        busy.join()

        async def is_ready() -> bool:
            return (await ready(url))[0] == 200

        await eventually(is_ready, "ready")

    asyncio.run(scene())


def test_a_redis_that_is_busy_for_long_is_told_of_as_something_to_come_back_for(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        stream_id = await start(url, "scripted?tokens=5&interval_ms=0")
        await whole(url, stream_id)
        redis.config_set("lua-time-limit", "100")
        busy = threading.Thread(target=_keep_busy, args=(one, 4.5))
        busy.start()
        await asyncio.sleep(0.5)
        status, body, headers = await call("GET", f"{url}/api/streams/{stream_id}")
        assert (status, body["error_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert int(headers["Retry-After"]) > 0
        busy.join()
        assert text_of(await whole(url, stream_id)) == words(5)

    asyncio.run(scene())


def _keep_busy(fleet: Fleet, seconds: float) -> None:
    """A script that runs until it is killed."""
    redis, killer = fleet.redis(), fleet.redis()
    timer = threading.Timer(seconds, killer.script_kill)
    timer.start()
    with contextlib.suppress(ResponseError):
        redis.eval("while true do end", 0)
    timer.join()


@pytest.mark.parametrize(
    ("option", "bad", "good", "code"),
    [("maxmemory", "1", "0", "OOM"), ("min-replicas-to-write", "1", "0", "NOREPLICAS")],
)
def test_readyz_tells_of_a_redis_that_reads_and_does_not_write(
    one: Fleet, option: str, bad: str, good: str, code: str
) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        redis.config_set(option, bad)
        try:
            status, body = await ready(url)
            assert (status, body["redis"], body["redis_error"]) == (503, "refuses writes", code)
            status, body, _ = await call("POST", f"{url}/api/chat", {"message": "a", "model": "scripted"})
            assert (status, body["error_code"]) == (503, "SERVICE_UNAVAILABLE")
        finally:  # else the tests that follow fail as well
            redis.config_set(option, good)
        status, body = await ready(url)
        assert (status, body["redis"]) == (200, "ok")
        await text_of_one(url)

    asyncio.run(scene())


def test_a_replica_is_not_ready(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            status, body = await ready(url)
            assert (status, body["redis_error"]) == (503, "READONLY")
        finally:
            redis.execute_command("REPLICAOF", "NO", "ONE")
        await text_of_one(url)

    asyncio.run(scene())


AS_JSON = {"Accept": "application/json"}
SHORT = [["t"], ["t", 1], ["t", 1, "m"], ["t", "x", "m", "w"], ["t", 10**18, "m", "w"], ["e", 1], [], 7, None, "t"]


def test_rubbish_on_the_live_channel_costs_nobody_their_answer(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        body = {"message": "hello", "model": "scripted?tokens=60&interval_ms=30"}
        async with Sse.post(url, body) as other, Sse.post(url, body) as victim:
            await other.take(3)
            events = await victim.take(3)
            channel = keys.live(str(events[0][1]["stream_id"]))
            for entry in SHORT:
                redis.publish(channel, b"9\n" + bytes(msgpack.packb(entry)))
            for noise in (b"", b"\n", b"9", b"9\n\xc1", b"-1\n\x90", b"9" * 5000 + b"\nx", b"\xff\xfe\n\x93"):
                redis.publish(channel, noise)
                redis.publish(keys.CANCEL, noise)
                redis.publish(keys.WAKE, noise)
            assert text_of(events + await victim.take()) == words(60)
            await other.take()
        await text_of_one(url)

    asyncio.run(scene())
    assert not one.tracebacks()


def test_a_log_with_a_short_entry_ends_its_reader_in_words_and_no_other(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        for entry in SHORT:
            stream_id = await start(url, "scripted?tokens=3&interval_ms=0")
            await whole(url, stream_id)
            redis.delete(keys.log(stream_id))
            redis.xadd(keys.log(stream_id), {"e": msgpack.packb(entry)}, id="1-0")
            said = [(await whole(url, stream_id))[-1][1]]
            async with Ws(url) as socket:
                assert (await socket.resume(stream_id))["type"] == "started"
                message = await socket.hear()
                assert (message["type"], message["stream_id"]) == ("error", stream_id)
                said.append(message)
                await socket.say({"type": "ping", "ref": "p"})
                assert (await socket.hear())["type"] == "pong"
            status, body, _ = await call("GET", f"{url}/api/streams/{stream_id}", headers=AS_JSON)
            said.append(body)
            assert status == 500
            assert [(each["error_code"], each["retryable"]) for each in said] == [("INTERNAL_ERROR", False)] * 3
        other = await start(url, "scripted?tokens=3&interval_ms=0")
        await whole(url, other)
        redis.xadd(keys.log(other), {"x": "y"}, id="99-0")
        redis.hset(keys.meta(other), "last", 99)
        async with Sse.get(url, other, 5) as stream:
            assert (await stream.take())[-1][1]["error_code"] == "INTERNAL_ERROR"
        await text_of_one(url)

    asyncio.run(scene())
    assert not one.tracebacks()


def test_a_queue_item_that_lacks_something_ends_no_worker(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        bad = []
        for field in ("model", "created", "epoch", "request", "on_disconnect", "last"):
            stream_id = f"bad-{field}".ljust(12, "-")
            bad.append(stream_id)
            fields = {"state": "queued", "epoch": 0, "last": 0, "created": 1, "owner": "anonymous", "model": "scripted",
                      "on_disconnect": "continue", "request": b"\xc1"}  # fmt: skip
            del fields[field]
            redis.hset(keys.meta(stream_id), mapping=fields)
            redis.zadd(keys.WAITING, {stream_id: 1})
        await text_of_one(url)
        for stream_id in bad:
            assert (await whole(url, stream_id))[-1][1]["done"] is True

    asyncio.run(scene())
    assert one.workers[0].poll() is None


def test_one_row_that_cannot_be_read_does_not_spoil_the_list(one: Fleet) -> None:
    redis, url = one.redis(), one.urls[0]

    async def scene() -> None:
        good = await start(url, "scripted?tokens=3&interval_ms=0")
        await whole(url, good)
        owner = keys.owner("anonymous")
        for number, value in enumerate((b"nan", b"1e99", b"-1", b"9" * 25, b"\xff")):
            for field in ("created", "last", "ended", "state"):
                stream_id = f"spoilt-{field}-{number}"
                fields = {"owner": "anonymous", "state": "completed", "last": 1, "created": 1, "ended": 1, field: value}
                redis.hset(keys.meta(stream_id), mapping=fields)
                redis.xadd(keys.log(stream_id), {"e": "x"}, id="1-0")
                redis.zadd(owner, {stream_id: 1})
                assert (await call("GET", f"{url}/api/streams/{stream_id}"))[0] == 404
        redis.zadd(owner, {b"\xff not an id": 2})
        status, body, _ = await call("GET", f"{url}/api/streams")
        assert status == 200
        assert good in [row["stream_id"] for row in body["streams"]]

    asyncio.run(scene())
