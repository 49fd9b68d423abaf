"""The Python client's WebSocket where servers and networks misbehave: one socket for all streams."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from tokenrelay_client import Client, Failed, Refused, api, retry, websocket

from tests.clients.service import (
    COME_BACK,
    ID,
    RESTART,
    STARTED,
    Fate,
    Service,
    play,
    socketed,
    some,
    talks,
    told,
    told_all,
)

Heard = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_RETRY_S", 0.02)


def kinds(heard: Heard) -> list[str]:
    return [message["type"] for message in heard]


# -- one answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_in_one_frame", [False, True])
def test_an_answer_is_whole(is_in_one_frame: bool) -> None:
    heard: Heard = []
    frames = told_all("a", "é\u2028", "😀")
    in_one = ",".join([*frames[:2], '{"type": "news"}', *frames[2:]])
    said = [f"[{in_one}]"] if is_in_one_frame else frames

    async def scene() -> None:
        async with (
            Service([talks(said, heard=heard)]) as service,
            Client(service.url, "sesame", transport="websocket") as client,
        ):
            stream = client.chat({"message": "hello", "seed": 1})
            assert (await stream.completion() or {})["output_tokens"] == 3
            assert (stream.text, stream.stream_id, stream.transport) == ("aé\u2028😀", ID, "websocket")
            [(_, path, headers)] = service.asked
            assert (path, headers["Authorization"]) == ("/api/ws", "Bearer sesame")
            assert headers["Sec-WebSocket-Protocol"] == "tokenrelay.v1.json"
        key = stream.idempotency_key
        assert heard == [{"message": "hello", "seed": 1, "type": "start", "ref": 1, "idempotency_key": key}]

    play(scene())


def test_a_socket_that_breaks_after_any_message_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_RETRY_S", 100.0)  # the server names the time, and that counts
    frames = told_all("a", "b", "c")

    async def scene() -> None:
        for cut in range(len(frames)):
            heard: Heard = []
            first = talks([*frames[:cut], COME_BACK], close=RESTART, heard=heard)
            fates = [first, talks([frames[0], *frames[1:]], heard=heard)]
            async with Service(fates) as service, socketed(service) as client:
                stream = client.chat("hello")
                await stream.completion()
                assert stream.text == "abc"
                assert [number for number, _ in stream.events] == [1, 2, 3, 4, 5]
            # Until it knows the id it starts again, with the same key.
            assert kinds(heard) == ["start", "start" if cut == 0 else "resume"]
            assert heard[1].get("idempotency_key", stream.idempotency_key) == heard[0]["idempotency_key"]
            assert heard[1].get("after", 0) == max(cut - 1, 0)

    play(scene())


def test_events_of_an_earlier_attachment_are_passed_over() -> None:
    """They may come before `started`, and have another cursor."""
    fates = [talks([STARTED, told(1), told(2, token="a"), COME_BACK], close=RESTART),
             talks([told(4, token="late"), *told_all("a", "b", "c")])]  # fmt: skip

    async def scene() -> None:
        async with Service(fates) as service, socketed(service) as client:
            stream = client.chat("hello")
            await stream.completion()
            assert stream.text == "abc"

    play(scene())


@pytest.mark.parametrize("nonsense", ["no JSON", "[1, 2]", '"text"', "null"])
def test_a_frame_that_is_no_message_ends_the_socket(nonsense: str) -> None:
    async def scene() -> None:
        fates = [talks([STARTED, told(1), nonsense]), talks(told_all("a"))]
        async with Service(fates) as service, socketed(service) as client:
            stream = client.chat("hello")
            await stream.completion()
            assert stream.text == "a"
            assert len(service.asked) == 2

    play(scene())


def test_a_peer_that_answers_no_ping_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.IDLE_TIMEOUT_S == 45
    monkeypatch.setattr(api, "BEAT_S", 0.05)
    monkeypatch.setattr(api, "IDLE_TIMEOUT_S", 0.15)
    hold = asyncio.Event()

    async def deaf(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False, protocols=["tokenrelay.v1.json"])
        await socket.prepare(request)
        message = await socket.receive_json()
        await socket.send_str(STARTED.replace("REF", str(message["ref"])))
        await socket.send_str(told(1))
        await hold.wait()
        return socket

    async def scene() -> None:
        async with Service([deaf, talks(told_all("a"))]) as service, socketed(service) as client:
            stream = client.chat("hello")
            await stream.completion()
            assert stream.text == "a"
            hold.set()

    play(scene())


@pytest.mark.parametrize(("code", "name"), [(4401, "UNAUTHORIZED"), (4403, "FORBIDDEN")])
def test_closes_after_which_a_client_does_not_come_back(code: int, name: str) -> None:
    async def scene() -> None:
        async with Service([talks([STARTED, told(1)], close=code)]) as service, socketed(service) as client:
            with pytest.raises(Refused) as caught:
                await client.chat("hello").completion()
            assert (caught.value.code, len(service.asked)) == (name, 1)

    play(scene())


def test_a_failed_answer_keeps_its_text() -> None:
    end = told(3, done=True, error="it broke", error_code="PROVIDER_ERROR", retryable=False)

    async def scene() -> None:
        async with Service([talks([STARTED, told(2, token="so far"), end])]) as service, socketed(service) as client:
            stream = client.chat("hello")
            with pytest.raises(Failed, match="it broke"):
                await stream.completion()
            assert stream.text == "so far"

    play(scene())


def test_a_stream_whose_log_is_gone_is_told_so() -> None:
    gone = {"type": "error", "ref": None, "stream_id": ID, "error": "gone", "error_code": "STREAM_EXPIRED"}

    async def scene() -> None:
        async with Service([talks([STARTED, told(1), json.dumps(gone)])]) as service, socketed(service) as client:
            with pytest.raises(Refused) as caught:
                await client.chat("hello").completion()
            assert (caught.value.code, caught.value.status) == ("STREAM_EXPIRED", 410)

    play(scene())


# -- many streams ----------------------------------------------------------------------------------------------------


def each_its_own(heard: Heard, *, hold: asyncio.Event | None = None) -> Fate:
    """A server that answers every start with a stream of its own name; it writes once `hold` is set."""

    async def answer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["tokenrelay.v1.json"])
        await socket.prepare(request)
        async with asyncio.TaskGroup() as tasks:
            async for frame in socket:
                message = json.loads(frame.data)
                heard.append(message)
                if message["type"] == "start":
                    tasks.create_task(write(socket, message))
        return socket

    async def write(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        first, *others = told_all(message["message"], "!")
        name = f"stream-{message['message']}"
        await socket.send_str(first.replace("REF", str(message["ref"])).replace(ID, name))
        if hold is not None:
            await hold.wait()
        for text in others:
            await socket.send_str(text.replace(ID, name))

    return answer


def test_streams_share_one_socket_and_it_closes_when_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "LINGER_S", 0.05)
    heard: Heard = []

    async def scene() -> None:
        async with Service([each_its_own(heard)]) as service, Client(service.url) as client:
            together = [client.chat(name) for name in "abcdefgh"]
            await asyncio.gather(*(stream.completion() for stream in together))
            assert [stream.text for stream in together] == [f"{name}!" for name in "abcdefgh"]
            assert len(service.asked) == 1
            while client._sockets._sockets:
                await asyncio.sleep(0)
            assert (await client.chat("i").completion() or {})["done"]
            assert len(service.asked) == 2

    play(scene())


def test_a_socket_that_is_to_be_left_takes_no_new_stream_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "The socket closes next": one that does not is closed by us, and its streams go on elsewhere."""
    monkeypatch.setattr(websocket, "RETIRE_S", 0.2)
    fates = [talks([STARTED, told(1), COME_BACK]), each_its_own([]), talks(told_all("a"))]

    async def scene() -> None:
        async with Service(fates) as service, socketed(service) as client:
            one = client.chat("hello")
            await some(one, 1)
            other = client.chat("b")
            await other.completion()
            assert (other.text, len(service.asked), one.state) == ("b!", 2, "streaming")
            await client._sockets._sockets[1].close()  # so that the next is the third
            await one.completion()
            assert (one.text, len(service.asked)) == ("a", 3)

    play(scene())


def test_one_stream_read_twice_takes_two_sockets() -> None:
    """The server would take them for one."""
    fates = [talks([STARTED, told(1)]), talks(told_all("a"))]

    async def scene() -> None:
        async with Service(fates) as service, socketed(service) as client:
            one = client.chat("hello")
            await some(one, 1)
            other = client.resume(ID)
            await other.completion()
            assert (other.text, len(service.asked), one.state) == ("a", 2, "streaming")

    play(scene())


def test_a_question_too_large_ends_the_socket_of_all_and_fails_alone() -> None:
    async def too_large(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["tokenrelay.v1.json"])
        await socket.prepare(request)
        small = await socket.receive_json()
        await socket.send_str(STARTED.replace("REF", str(small["ref"])))
        await socket.send_str(told(1))
        await socket.receive()
        await socket.close(code=1009)
        return socket

    async def scene() -> None:
        async with Service([too_large, talks(told_all("a"))]) as service, socketed(service) as client:
            small = client.chat("answered, so it was not too large" * 1_000)
            await some(small, 1)
            large = client.chat("L" * 5_000)
            with pytest.raises(Refused) as caught:
                await large.completion()
            assert (caught.value.code, caught.value.status) == ("PAYLOAD_TOO_LARGE", 413)
            await small.completion()
            assert small.text == "a"

    play(scene())


def test_a_readers_own_fault_is_not_that_of_those_who_share_the_socket() -> None:
    hold = asyncio.Event()

    def fault() -> None:
        raise LookupError("mine")

    async def scene() -> None:
        async with Service([each_its_own([], hold=hold)]) as service, Client(service.url) as client:
            one, other = client.chat("a"), client.chat("b")
            while one.state != "queued" or other.state != "queued":
                await asyncio.sleep(0)
            off = one.subscribe(fault)
            one.subscribe(off)  # told after it: the end has to be told as well
            hold.set()
            await other.completion()
            assert (other.text, len(service.asked)) == ("b!", 1)
            with pytest.raises(Failed, match="mine"):
                await one.completion()

    play(scene())


# -- letting go ------------------------------------------------------------------------------------------------------


def test_a_stream_that_was_left_is_detached_and_its_socket_stays() -> None:
    heard: Heard = []
    hold = asyncio.Event()

    async def scene() -> None:
        async with Service([each_its_own(heard, hold=hold)]) as service, Client(service.url) as client:
            left = client.chat("a")
            while left.stream_id is None:
                await asyncio.sleep(0)
            left.detach()
            kept = client.chat("b")
            hold.set()
            await kept.completion()
            assert (left.state, left.text, kept.text) == ("detached", "", "b!")
            assert len(service.asked) == 1
        assert {"type": "detach", "stream_id": "stream-a"} in heard

    play(scene())


def test_a_start_that_was_left_before_its_answer_is_detached_when_that_comes() -> None:
    heard: Heard = []
    asked, hold = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["tokenrelay.v1.json"])
        await socket.prepare(request)
        message = await socket.receive_json()
        asked.set()
        await hold.wait()
        await socket.send_str(STARTED.replace("REF", str(message["ref"])))
        heard.append(await socket.receive_json())
        return socket

    async def scene() -> None:
        async with Service([slow]) as service, socketed(service) as client:
            stream = client.chat("hello")
            await asked.wait()
            stream.detach()
            hold.set()
            while not heard:
                await asyncio.sleep(0)
            assert heard == [{"type": "detach", "stream_id": ID}]

    play(scene())


def test_a_question_that_was_left_before_the_socket_opened_is_never_asked() -> None:
    heard: Heard = []
    hold = asyncio.Event()
    answer = each_its_own(heard)

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return await answer(request)

    async def scene() -> None:
        async with Service([slow]) as service, socketed(service) as client:
            left, kept = client.chat("a"), client.chat("b")
            while not service.asked:
                await asyncio.sleep(0)
            left.detach()
            hold.set()
            await kept.completion()
            assert [message.get("message") for message in heard if message["type"] == "start"] == ["b"]

    play(scene())


def test_a_stop_goes_over_the_socket_and_waits_for_the_servers_word() -> None:
    heard: Heard = []

    async def scene() -> None:
        async with Service([talks([STARTED, told(1)], heard=heard)]) as service, socketed(service) as client:
            stream = client.chat("hello")
            await some(stream, 1)
            await stream.cancel()
            assert kinds(heard) == ["start", "cancel", "ping"]
            assert heard[1]["stream_id"] == ID
            assert len(service.asked) == 1

    play(scene())
