"""What a reader gets: the same events over both transports, wherever it comes in, however often it drops."""

from __future__ import annotations

import asyncio
import json
import random

from tests.fleet import Fleet
from tests.wire import EventPair, Sse, Ws, start, text_of, whole, words

TOOL = "scripted?tokens=12&interval_ms=3&tool_after=5"


def numbered(events: list[EventPair]) -> list[EventPair]:
    return [event for event in events if event[0] is not None]


async def _ws_from_the_start(url: str, stream_id: str, *, binary: bool, replay: str = "exact") -> list[EventPair]:
    async with Ws(url, binary=binary) as socket:
        answer = await socket.resume(stream_id, 0, replay=replay)
        assert answer["type"] == "started", answer
        return await socket.take(stream_id)


def test_the_answer_arrives_token_by_token_with_ids_from_one(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Sse.post(fleet.urls[0], {"message": "hello", "model": TOOL}) as stream:
            assert stream.response.headers["Content-Type"] == "text/event-stream"
            assert stream.response.headers["Cache-Control"] == "no-cache, no-transform"
            assert stream.response.headers["X-Accel-Buffering"] == "no"
            assert stream.response.headers["Location"] == f"/api/streams/{stream.stream_id}"
            events = await stream.take()
        accepted, *rest = events
        assert accepted[0] is None
        assert accepted[1]["status"] == "queued"
        assert accepted[1]["stream_id"] == stream.stream_id
        assert [entry_id for entry_id, _ in rest] == list(range(1, len(rest) + 1))
        assert rest[0][1]["status"] == "started"
        assert text_of(events) == words(12)
        assert [data["done"] for _, data in rest] == [False] * (len(rest) - 1) + [True]
        end = rest[-1][1]
        assert end["finish_reason"] == "stop"
        assert end["total_tokens"] == end["input_tokens"] + end["output_tokens"]
        assert (end["output_tokens"], end["provider"], end["resolved_model"]) == (12, "Scripted", "scripted")
        assert end["stream_id"] == stream.stream_id

    asyncio.run(scene())


def test_a_tool_call_stands_between_the_tokens_around_it(fleet: Fleet) -> None:
    async def scene() -> None:
        events = numbered(await whole(fleet.urls[0], await start(fleet.urls[0], TOOL)))
        place = next(index for index, (_, data) in enumerate(events) if "tool_name" in data)
        call, result = events[place][1], events[place + 1][1]
        assert events[place - 1][1]["token"] == "w4 "
        assert events[place + 2][1]["token"] == "w5 "
        assert call["tool_input"] == {"expression": "6*7"}
        assert "tool_result" not in call
        assert result["tool_result"] == "42"
        assert result["tool_call_id"] == call["tool_call_id"]

    asyncio.run(scene())


def test_both_doors_give_identical_events_live_and_replayed(fleet: Fleet) -> None:
    async def scene() -> None:
        async with (
            Sse.post(fleet.urls[0], {"message": "hello", "model": TOOL}) as stream,
            Ws(fleet.urls[1]) as text,
            Ws(fleet.urls[0], binary=True) as binary,
        ):
            stream_id = stream.stream_id
            await text.resume(stream_id, 0, replay="exact")
            await binary.resume(stream_id, 0, replay="exact")
            live = await asyncio.gather(stream.take(), text.take(stream_id), binary.take(stream_id))
        replays = [
            await whole(fleet.urls[1], stream_id),
            await _ws_from_the_start(fleet.urls[0], stream_id, binary=False),
            await _ws_from_the_start(fleet.urls[1], stream_id, binary=True),
        ]
        first = numbered(live[0])
        assert first[-1][1]["done"]
        for other in [*live[1:], *replays]:
            assert numbered(other) == first

    asyncio.run(scene())


def test_a_generation_started_on_a_socket_reads_the_same_over_sse(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Ws(fleet.urls[0]) as socket:
            stream_id = await socket.start({"message": "hello", "model": TOOL})
            events = await socket.take(stream_id)
        assert text_of(events) == words(12)
        assert numbered(await whole(fleet.urls[1], stream_id)) == events

    asyncio.run(scene())


def test_many_streams_share_one_socket(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Ws(fleet.urls[0], binary=True) as socket:
            model = "scripted?tokens=30&interval_ms=2"
            await socket.say(*[{"type": "start", "ref": n, "message": "hello", "model": model} for n in range(20)])
            texts: dict[str, str] = {}
            refs: list[int] = []
            done = 0
            while done < 20:
                message = await socket.hear()
                if message["type"] == "started":
                    refs.append(message["ref"])
                    texts[message["stream_id"]] = ""
                else:
                    texts[message["stream_id"]] += message["data"]["token"]
                    done += message["data"]["done"]
        assert refs == list(range(20))
        assert set(texts.values()) == {words(30)}

    asyncio.run(scene())


class LineSplitter:
    """The client that many pages copy: it splits each network read at newlines by itself, and has no other state."""

    def __init__(self) -> None:
        self.text = ""

    def read(self, chunk: bytes) -> None:
        for line in chunk.decode("utf-8").split("\n"):
            if line.startswith("data: "):
                self.text += json.loads(line[len("data: ") :])["token"]


def test_a_client_that_parses_each_network_read_on_its_own_gets_the_text(fleet: Fleet) -> None:
    async def one(number: int) -> None:
        client = LineSplitter()
        body = {"message": "hello", "model": f"scripted?tokens=120&interval_ms={number % 4}&tool_after=9"}
        async with Sse.post(fleet.urls[number % 2], body) as stream:
            async for chunk in stream.reads():
                client.read(chunk)
        assert client.text == words(120)

    async def scene() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(scene())


def test_a_drop_at_every_index_is_made_good_on_another_edge_and_the_other_transport(fleet: Fleet) -> None:
    model = "scripted?tokens=24&interval_ms=4&tool_after=7"

    async def over_sse_then_socket(index: int) -> list[EventPair]:
        async with Sse.post(fleet.urls[0], {"message": "hello", "model": model}) as stream:
            stream_id, head = stream.stream_id, numbered(await stream.take(index))
        if head and head[-1][1]["done"]:
            return head
        async with Ws(fleet.urls[1], binary=bool(index % 2)) as socket:
            await socket.resume(stream_id, index, replay="exact")
            return head + await socket.take(stream_id)

    async def over_socket_then_sse(index: int) -> list[EventPair]:
        async with Ws(fleet.urls[1], binary=bool(index % 2)) as socket:
            stream_id = await socket.start({"message": "hello", "model": model})
            head = await socket.take(stream_id, index)
        if head and head[-1][1]["done"]:
            return head
        async with Sse.get(fleet.urls[0], stream_id, index, replay="exact") as stream:
            return head + await stream.take()

    async def scene() -> None:
        total = 1 + 24 + 2 + 1  # started, tokens, call and result, completion
        for way in (over_sse_then_socket, over_socket_then_sse):
            for index, events in enumerate(await asyncio.gather(*(way(index) for index in range(total + 1)))):
                assert [entry_id for entry_id, _ in events] == list(range(1, total + 1)), (way, index)
                assert text_of(events) == words(24), (way, index)
                assert events[-1][1]["done"], (way, index)

    asyncio.run(scene())


def test_fifty_clients_dropped_five_times_each_have_fifty_exact_texts(fleet: Fleet) -> None:
    dice = random.Random(20)

    async def client(number: int) -> str:
        drops = sorted(dice.sample(range(1, 200), 5))
        body = {"message": "hello", "model": "scripted?tokens=200&interval_ms=5"}
        text, cursor = "", 0
        async with Sse.post(fleet.urls[number % 2], body) as stream:
            stream_id, events = stream.stream_id, await stream.take(drops[0])
        text, cursor = text_of(events), events[-1][0] or 0
        for turn, drop in enumerate([*drops[1:], None]):
            if events[-1][1]["done"]:
                break  # a compact replay jumped over the rest of the drops
            url = fleet.urls[(number + turn) % 2]
            count = None if drop is None else max(1, drop - cursor)
            if (number + turn) % 3:
                async with Ws(url, binary=bool(turn % 2)) as socket:
                    await socket.resume(stream_id, cursor)
                    events = await socket.take(stream_id, count)
            else:
                async with Sse.get(url, stream_id, cursor) as stream:
                    events = await stream.take(count)
            text += text_of(events)
            cursor = events[-1][0] or cursor
        assert events[-1][1]["done"]
        return text

    async def scene() -> None:
        texts = await asyncio.gather(*(client(number) for number in range(50)))
        assert [text == words(200) for text in texts] == [True] * 50

    asyncio.run(scene())


def test_a_second_viewer_joins_late_and_has_everything(fleet: Fleet) -> None:
    async def scene() -> None:
        body = {"message": "hello", "model": "scripted?tokens=60&interval_ms=5"}
        async with Sse.post(fleet.urls[0], body) as stream:
            head = await stream.take(20)
            late = asyncio.create_task(whole(fleet.urls[1], stream.stream_id, replay="compact"))
            events = head + await stream.take()
        assert text_of(events) == text_of(await late) == words(60)

    asyncio.run(scene())


def test_compact_and_exact_replay_agree(fleet: Fleet) -> None:
    async def scene() -> None:
        stream_id = await start(fleet.urls[0], "scripted?tokens=300&interval_ms=0&tool_after=100")
        exact = numbered(await whole(fleet.urls[0], stream_id, replay="exact"))
        compact = numbered(await whole(fleet.urls[1], stream_id, replay="compact"))
        assert text_of(compact) == text_of(exact) == words(300)
        assert [event for event in compact if not event[1]["token"]] == [e for e in exact if not e[1]["token"]]
        assert len(compact) < len(exact) / 10
        by_id = dict(exact)
        assert all(entry_id in by_id for entry_id, _ in compact)
        for entry_id, _ in compact[:-1]:  # every id of a compact replay is a cursor like any other
            async with Sse.get(fleet.urls[0], stream_id, entry_id, replay="exact") as stream:
                rest = await stream.take()
            before = [event for event in compact if (event[0] or 0) <= (entry_id or 0)]
            assert text_of(before) + text_of(rest) == words(300)

    asyncio.run(scene())


def test_the_same_question_without_stream_is_one_json(fleet: Fleet) -> None:
    from tests.wire import call

    async def scene() -> None:
        status, answer, headers = await call("POST", f"{fleet.urls[0]}/api/chat", {"message": "hello", "model": TOOL})
        assert status == 200
        assert answer["response"] == words(12)
        assert answer["stream_id"] == headers["X-Stream-Id"]
        assert answer["tool_calls"][0]["tool_result"] == "42"
        assert {"model", "resolved_model", "provider", "finish_reason", "total_tokens", "response_time"} <= set(answer)
        status, snapshot, _ = await call(
            "GET", f"{fleet.urls[1]}/api/streams/{answer['stream_id']}", headers={"Accept": "application/json"}
        )
        assert (status, snapshot["state"], snapshot["text"]) == (200, "completed", words(12))
        assert snapshot["usage"]["output_tokens"] == 12
        status, listing, _ = await call("GET", f"{fleet.urls[1]}/api/streams")
        assert listing["streams"][0].keys() == {"stream_id", "state", "model", "created_at", "last_event_id"}

    asyncio.run(scene())
