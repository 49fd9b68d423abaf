"""Workers of two kinds beside each other: each takes what it can answer, whatever waits for the other."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_agent import SCRIPTED, TEXT, lay_out
from tests.end_to_end.test_lifecycle import state_of
from tests.fleet import Fleet, one_server, until, workers_seen
from tests.wire import Sse, Ws, call, start, text_of, whole, words
from tokenrelay.protocol.store import keys

WAITING = 20
"""More than a claim takes at once."""

SCRIPT = "scripted?tokens=5&interval_ms=1"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """An edge that knows all rows, and no worker yet."""
    with Fleet(workers=0, env=lay_out(tmp_path, "support")) as started:
        yield started


@one_server("it looks at the queue")
def test_what_one_kind_cannot_answer_waits_for_the_other_and_holds_up_nothing(fleet: Fleet, tmp_path: Path) -> None:
    only_scripted = tmp_path / "only-scripted.toml"
    only_scripted.write_text(SCRIPTED)

    async def scene() -> None:
        [url] = fleet.urls
        scripted = [await start(url, SCRIPT) for _ in range(WAITING)]
        agents = [await start(url, "support") for _ in range(2)]
        fleet.start_worker(TOKENRELAY_SCRIPTED="0")
        for stream_id in agents:
            assert text_of(await whole(url, stream_id)) == TEXT
        assert {(await state_of(url, stream_id))["state"] for stream_id in scripted} == {"queued"}
        # Another catalogue, in which the handler's row does not stand.
        fleet.start_worker(TOKENRELAY_CATALOGUE=str(only_scripted))
        for stream_id in scripted:
            assert text_of(await whole(url, stream_id)) == words(5)
        assert not fleet.redis().exists(keys.WAITING, keys.NEEDS)
        until(lambda: fleet.redis().hlen(keys.WORKERS) == 2, "both have made their offers")
        fleet.wait_until_ready()
        # Both are idle now, and both are woken by every start: over either transport the right one takes it.
        for _ in range(5):
            async with Sse.post(url, {"message": "hi", "model": "support"}) as stream:
                assert text_of(await stream.take()) == TEXT
            async with Ws(url) as socket:
                stream_id = await socket.start({"message": "hi", "model": SCRIPT})
                assert text_of(await socket.take(stream_id)) == words(5)

    asyncio.run(scene())


def test_a_row_that_no_workers_catalogue_has_is_refused_by_name(fleet: Fleet, tmp_path: Path) -> None:
    only_scripted = tmp_path / "only-scripted.toml"
    only_scripted.write_text(SCRIPTED)
    fleet.start_worker(TOKENRELAY_CATALOGUE=str(only_scripted))
    fleet.wait_until_ready()

    async def scene() -> None:
        status, body, _ = await call("POST", f"{fleet.urls[0]}/api/chat", {"message": "hi", "model": "support"})
        assert (status, body["error_code"], body["field"]) == (503, "SERVICE_UNAVAILABLE", "model")
        assert "support" in body["error"]

    asyncio.run(scene())


def test_what_only_a_draining_worker_answered_waits_for_the_next_and_what_nobody_did_is_refused(
    fleet: Fleet, tmp_path: Path
) -> None:
    only_scripted = tmp_path / "only-scripted.toml"
    only_scripted.write_text(SCRIPTED)

    async def scripted(url: str) -> bool:
        _, body, _ = await call("GET", f"{url}/api/models")
        return any(row["available"] for row in body["models"] if row["id"] == "scripted")

    async def scene() -> None:
        [url] = fleet.urls
        first = fleet.start_worker(TOKENRELAY_FINISH_S="120", TOKENRELAY_CATALOGUE=str(only_scripted))
        fleet.wait_until_ready()
        async with Sse.post(url, {"message": "hi", "model": "scripted?tokens=100000&interval_ms=20"}) as running:
            await running.take(2)
            assert await scripted(url)
            fleet.workers[first].send_signal(signal.SIGTERM)
            # It renews its leases, with an offer of nothing: a living worker, and none that answers.
            async with asyncio.timeout(20):
                while workers_seen(url) != 1 or await scripted(url):
                    await asyncio.sleep(0.1)
            stream_id = await start(url, SCRIPT)
            assert (await state_of(url, stream_id))["state"] == "queued"
            status, body, _ = await call("POST", f"{url}/api/chat", {"message": "hi", "model": "support"})
            assert (status, body["error_code"], body["field"]) == (503, "SERVICE_UNAVAILABLE", "model")
            fleet.start_worker()
            assert text_of(await whole(url, stream_id)) == words(5)
            assert (await state_of(url, running.stream_id))["state"] == "running"

    asyncio.run(scene())


def test_what_waits_for_a_kind_that_has_left_ends_in_words_while_others_work_on(tmp_path: Path) -> None:
    only_scripted = tmp_path / "only-scripted.toml"
    only_scripted.write_text(SCRIPTED)

    async def scene(fleet: Fleet) -> None:
        [url] = fleet.urls
        capable = fleet.start_worker(TOKENRELAY_SCRIPTED="0")
        fleet.start_worker(TOKENRELAY_CATALOGUE=str(only_scripted))
        fleet.wait_until_ready()
        async with Sse.post(url, {"message": "hi", "model": "support"}) as stream:
            assert text_of(await stream.take()) == TEXT
        await asyncio.to_thread(fleet.kill_worker, capable)
        # The next one of its kind might come in a moment: none is refused, and over each transport each is told.
        async with Sse.post(url, {"message": "hi", "model": "support"}) as waiting, Ws(url) as socket:
            queued = await socket.start({"message": "hi", "model": "support"})
            assert text_of(await whole(url, await start(url, SCRIPT))) == words(5)
            for events in (await waiting.take(), await socket.take(queued)):
                end = events[-1][1]
                assert (end["done"], end["error_code"], end["retryable"]) == (True, "TIMEOUT", True)
        assert not fleet.redis().exists(keys.WAITING, keys.NEEDS)

    env = lay_out(tmp_path, "support") | {"TOKENRELAY_QUEUE_TIMEOUT_S": "4"}
    with Fleet(workers=0, env=env) as fleet:
        asyncio.run(scene(fleet))
