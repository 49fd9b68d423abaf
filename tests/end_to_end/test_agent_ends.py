"""Ways in which a handler of one's own can end, in real processes: each with its documented outcome."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_lifecycle import until_state
from tests.fleet import Fleet
from tests.wire import EventPair, Sse, Ws, call, start, text_of, whole
from tokenrelay.protocol.runtime.launcher import clean_environment

AGENTS = """
import asyncio, json, os, random
from tokenrelay.agent import Data, Text, Thinking, ToolCall, ToolResult

def note(ask, what):
    with open(os.path.join(os.path.dirname(__file__), "notes"), "a") as notes:
        notes.write(json.dumps([ask.stream_id, what]) + "\\n")

async def for_ever(ask):
    try:
        while True:
            yield "t "
            await asyncio.sleep(0.02)
    finally:
        note(ask, "tidied up")

async def raises(ask):
    yield "half"
    raise RuntimeError("a secret of ours")

async def hangs(ask):
    try:
        yield "t "
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(3600)

async def many(ask):
    for number in range(100_000):
        yield "x"

async def second_time(ask):
    note(ask, f"attempt {ask.attempt}")
    if ask.attempt == 1:
        await asyncio.sleep(3600)
    yield f"attempt {ask.attempt}"

async def mixed(ask):
    dice = random.Random(ask.metadata["seed"])
    for number in range(150):
        kind = dice.choice(["text", "text", "text", "thinking", "tool", "data"])
        if kind == "text":
            part = Text(f"w{number} ")
        elif kind == "thinking":
            part = Thinking(f"hm{number} ")
        elif kind == "data":
            part = Data("step", {"number": number})
        else:
            part = ToolCall(f"c{number}", "lookup", {"order": number})
            yield part
            note(ask, ["call", number])
            part = ToolResult(f"c{number}", f"order {number}")
        yield part
        note(ask, [kind, number])
        if not number % 10:
            await asyncio.sleep(0.05)
"""
NAMES = ("for_ever", "raises", "hangs", "many", "second_time", "mixed")
ROW = '[[model]]\nid = "{0}"\nprovider = "Acme"\nupstream = "{0}"\ndialect = "python"\nhandler = "ending_agents:{0}"\n'
SCRIPTED = '[[model]]\nid = "scripted"\nprovider = "Scripted"\nupstream = "scripted"\ndialect = "scripted"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("agents")
    (made / "ending_agents.py").write_text(AGENTS)
    (made / "models.toml").write_text(SCRIPTED + "".join(map(ROW.format, NAMES)))
    (made / "notes").write_text("")
    return made


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[Fleet]:
    path = clean_environment({}).get("PYTHONPATH", "")
    env = {
        "TOKENRELAY_CATALOGUE": str(folder / "models.toml"), "PYTHONPATH": f"{folder}:{path}".rstrip(":"),
        "TOKENRELAY_FINISH_S": "0.5",
    }  # fmt: skip
    with Fleet(edges=2, workers=1, env=env) as started:
        yield started


def notes_of(folder: Path, stream_id: str) -> list[Any]:
    rows = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    return [what for name, what in rows if name == stream_id]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not holds():
            await asyncio.sleep(0.05)


def run(scene: Any) -> None:
    asyncio.run(asyncio.wait_for(scene, 90))


def test_it_is_stopped_when_its_only_reader_leaves(fleet: Fleet, folder: Path) -> None:
    async def scene() -> None:
        one, other = fleet.urls
        async with Sse.post(one, {"message": "hi", "model": "for_ever", "on_disconnect": "grace:1"}) as stream:
            stream_id = stream.stream_id
            begun = await stream.take(3)
        async with Ws(other) as socket:  # back in time: it goes on
            await socket.resume(stream_id, begun[-1][0])
            await socket.take(stream_id, 20)
        await until_state(other, stream_id, "cancelled")
        await until(lambda: notes_of(folder, stream_id) == ["tidied up"])

    run(scene())


def test_an_exception_is_told_without_its_words_and_logged_with_them(fleet: Fleet) -> None:
    async def scene() -> None:
        events = await whole(fleet.urls[0], await start(fleet.urls[0], "raises"))
        assert (text_of(events), events[-1][1]["error_code"]) == ("half", "INTERNAL_ERROR")
        assert "secret" not in json.dumps(events)
        assert "RuntimeError: a secret of ours" in fleet.said()

    run(scene())


def test_one_that_hangs_when_it_should_tidy_up_holds_up_nobody(fleet: Fleet) -> None:
    async def scene() -> None:
        one, other = fleet.urls
        async with Sse.post(one, {"message": "hi", "model": "hangs"}) as stream:
            await stream.take(2)
            await call("DELETE", f"{other}/api/streams/{stream.stream_id}")
            assert (await stream.take())[-1][1]["finish_reason"] == "cancelled"
        assert text_of(await whole(other, await start(other, "raises"))) == "half"

    run(scene())


def test_a_hundred_thousand_parts_arrive_and_others_have_their_turn(fleet: Fleet) -> None:
    async def scene() -> None:
        one, other = fleet.urls
        async with Sse.post(one, {"message": "hi", "model": "many"}) as stream:
            assert text_of(await whole(other, await start(other, "scripted?tokens=3"))) == "w0 w1 w2 "
            events = await stream.take()
        assert text_of(events) == "x" * 100_000
        assert events[-1][1]["finish_reason"] == "stop"

    run(scene())


def told(events: list[EventPair]) -> list[Any]:
    """What was yielded, read back from its events."""
    found: list[Any] = []
    for entry_id, data in events:
        if entry_id is None or data["done"] or data.get("status"):
            continue
        if "tool_result" in data:
            found.append(["tool", int(data["tool_result"].removeprefix("order "))])
        elif "tool_name" in data:
            found.append(["call", data["tool_input"]["order"]])
        elif "data" in data:
            found.append(["data", data["data"]["number"]])
        elif "thinking" in data:
            found.append(["thinking", int(data["thinking"].removeprefix("hm"))])
        else:
            found.append(["text", int(data["token"].removeprefix("w"))])
    return found


@pytest.mark.parametrize("seed", ["1", "2"])
def test_dropped_and_resumed_at_random_a_reader_has_exactly_what_was_yielded(
    fleet: Fleet, folder: Path, seed: str
) -> None:
    async def scene() -> None:
        dice = random.Random(seed)
        body = {"message": "hi", "model": "mixed", "show": ["thinking"], "metadata": {"seed": seed}}
        async with Sse.post(fleet.urls[0], body) as stream:
            stream_id = stream.stream_id
            read = await stream.take(dice.randrange(1, 10))
        while not read[-1][1]["done"]:
            url, after, count = dice.choice(fleet.urls), read[-1][0], dice.randrange(1, 40)
            if dice.random() < 0.5:
                async with Sse.get(url, stream_id, after, replay="exact") as stream:
                    read += await stream.take(count)
            else:
                async with Ws(url, binary=dice.random() < 0.5) as socket:
                    await socket.resume(stream_id, after, replay="exact")
                    read += await socket.take(stream_id, count)
        ids = [entry_id for entry_id, _ in read if entry_id is not None]
        assert ids == list(range(1, len(ids) + 1))
        await until(lambda: len(notes_of(folder, stream_id)) == len(told(read)))
        assert told(read) == notes_of(folder, stream_id)

    run(scene())


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM], ids=lambda way: way.name)
def test_a_worker_goes_and_only_what_was_told_is_lost(fleet: Fleet, folder: Path, way: signal.Signals) -> None:
    """Nothing told yet: started again, by another worker, with the next attempt."""

    async def scene() -> None:
        one, other = fleet.urls
        async with Sse.post(one, {"message": "hi", "model": "for_ever"}) as stream:
            begun = await stream.take(3)
            untold = await start(one, "second_time")
            await until(lambda: notes_of(folder, untold) == ["attempt 1"])
            await asyncio.to_thread(fleet.kill_worker, 0, way)
            fleet.restart_worker(0)
            rest = await stream.take()
        assert rest[-1][1]["error_code"] == "WORKER_LOST"
        assert text_of(begun + rest).startswith("t t ")
        assert (await whole(other, stream.stream_id))[-1][1]["error_code"] == "WORKER_LOST"
        again = await whole(other, untold)
        assert (text_of(again), again[-1][1]["finish_reason"]) == ("attempt 2", "stop")
        assert notes_of(folder, untold) == ["attempt 1", "attempt 2"]

    run(scene())
