"""The Python client against the conformance cases that the JavaScript client reads too (`protocol/vectors`), over both
transports.

The server reads the same files in tests/protocol, and JavaScript in clients/javascript/tests/vectors.test.js and
stream.test.js: three implementations, one set of cases.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from tokenrelay_client import Choice, Client, Failed, Refused, cursor
from tokenrelay_client.decoder import Decoder
from tokenrelay_client.errors import TABLE, refusal_of

from tests.clients.service import (
    COME_BACK,
    ID,
    OVER,
    PATIENCE_S,
    RESTART,
    STARTED,
    Fate,
    Service,
    event,
    says,
    streams,
    talks,
    told,
)

VECTORS = Path(__file__).resolve().parent.parent.parent / "protocol" / "vectors"


def read(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def cases(name: str, key: str = "cases") -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in read(name)[key]]


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    asyncio.run(bounded())


both = pytest.mark.parametrize("transport", ["sse", "websocket"])


class Asked:
    """The cursors with which a service was asked, whatever the transport."""

    def __init__(self, service: Service, heard: list[dict[str, Any]]) -> None:
        self._service, self._heard = service, heard

    @property
    def cursors(self) -> list[str]:
        over_sse = [headers["Last-Event-ID"] for *_, headers in self._service.asked if "Last-Event-ID" in headers]
        return over_sse + [str(message["after"]) for message in self._heard if message["type"] == "resume"]


@both
@pytest.mark.parametrize("case", cases("events"))
def test_an_event_is_read_as_it_is_written(case: dict[str, Any], transport: Choice) -> None:
    heard: list[dict[str, Any]] = []
    fates: dict[str, list[Fate]] = {
        "sse": [streams(case["sse"].encode(), each=1), says(204)],
        "websocket": [
            talks([STARTED, case["ws_json"], COME_BACK], close=RESTART, heard=heard),
            talks(OVER, heard=heard),
        ],
    }

    async def scene() -> None:
        async with (
            Service(fates[transport]) as service,
            Client(service.url, transport=transport, patience_s=5) as client,
        ):
            stream = client.resume(case["stream_id"], case["id"] - 1)
            if "error_code" in case["data"]:
                with pytest.raises(Failed) as caught:
                    await stream.completion()
                assert caught.value.code == case["data"]["error_code"]
            else:
                await stream.completion()
            assert stream.events == [(case["id"], case["data"])]
            assert stream.text == case["data"]["token"]
            if not case["data"]["done"]:
                assert Asked(service, heard).cursors[1] == str(case["id"])

    play(scene())


@both
@pytest.mark.parametrize("case", cases("errors", "refusals"))
def test_a_refusal_is_typed(case: dict[str, Any], transport: Choice) -> None:
    row = next(row for row in read("errors")["rows"] if row["code"] == case["code"])
    message = {**json.loads(case["ws_json"]), "ref": "REF"}
    fates = {"sse": says(row["status"], case["body"]), "websocket": talks(json.dumps(message).replace('"REF"', "REF"))}

    async def scene() -> None:
        once: dict[str, Any] = {"transport": transport, "patience_s": 0}
        async with Service([fates[transport]]) as service, Client(service.url, **once) as client:
            with pytest.raises(Refused) as caught:
                await client.chat("hello").completion()
        error = caught.value
        assert (error.code, error.status, str(error)) == (
            case["code"],
            row["status"],
            json.loads(case["body"])["error"],
        )
        assert error.retryable == row["retryable"]
        assert error.details.items() >= case["fields"].items()
        assert error.retry_after == case["fields"].get("retry_after")

    play(scene())


@pytest.mark.parametrize("row", [pytest.param(row, id=row["code"]) for row in read("errors")["rows"]])
def test_the_table_of_errors_is_known(row: dict[str, Any]) -> None:
    error = refusal_of({"error_code": row["code"]}, row["status"])
    assert (error.code, error.status, error.retryable) == (row["code"], row["status"], row["retryable"])


def test_the_table_of_errors_is_the_servers() -> None:
    rows = {row["code"]: (row["status"], row["retryable"]) for row in read("errors")["rows"]}
    assert {code: tuple(row) for code, row in TABLE.items()} == rows


@pytest.mark.parametrize("case", cases("sse_decode"))
def test_bytes_are_decoded_as_the_vector_says(case: dict[str, Any]) -> None:
    def decode(chunks: list[bytes]) -> dict[str, Any]:
        decoder = Decoder()
        frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
        return {
            "frames": [{"data": frame.data, "event": frame.event, "id": frame.event_id} for frame in frames],
            "retry": decoder.retry_ms,
            "last_event_id": decoder.last_event_id,
        }

    expected = {name: case[name] for name in ("frames", "retry", "last_event_id")}
    chunks = [chunk.encode("latin-1") for chunk in case["chunks"]]
    whole = b"".join(chunks)
    assert decode(chunks) == expected
    if case["each_byte"]:
        assert decode([whole[at : at + 1] for at in range(len(whole))]) == expected
    for cut in range(len(whole)):
        assert decode([whole[:cut], whole[cut:]]) == expected


@pytest.mark.parametrize("case", cases("cursors"))
def test_a_cursor_is_read_as_the_vector_says(case: dict[str, Any]) -> None:
    if case.get("error") == "INVALID_CURSOR":
        with pytest.raises(Refused, match="a cursor is an event id"):
            cursor.parse(case["text"])
    else:
        assert case.get("after") in (None, cursor.parse(case["text"]))


@both
@pytest.mark.parametrize("case", cases("cursors"))
def test_a_cursor_is_sent_as_it_is_meant(case: dict[str, Any], transport: Choice) -> None:
    heard: list[dict[str, Any]] = []
    error, answer = case.get("error"), case.get("answer")
    number = case["last_id"] + 1
    fates = {
        "sse": streams(event(number, done=True)),
        "websocket": talks([STARTED, told(number, done=True)], heard=heard),
    }
    if answer == "nothing_more":
        fates = {"sse": says(204), "websocket": talks(OVER, heard=heard)}
    if error == "CURSOR_AHEAD":
        ahead = {"error": "beyond", "error_code": error}
        said = json.dumps({"type": "error", "ref": "REF", **ahead}).replace('"REF"', "REF")
        fates = {"sse": says(409, ahead), "websocket": talks(said, heard=heard)}

    async def scene() -> None:
        once: dict[str, Any] = {"transport": transport, "patience_s": 0}
        async with Service([fates[transport]]) as service, Client(service.url, **once) as client:
            asked = Asked(service, heard)
            if error is not None:
                with pytest.raises(Refused) as caught:
                    await client.resume(ID, case["text"]).completion()
                assert caught.value.code == error
                assert len(asked.cursors) == (error == "CURSOR_AHEAD")
                return
            end = await client.resume(ID, case["text"]).completion()
            assert (end is None) == (answer == "nothing_more")
            assert asked.cursors == [str(case["after"])]

    play(scene())


@both
@pytest.mark.parametrize("replay", ["exact", "compact"])
@pytest.mark.parametrize("case", cases("session"))
def test_what_a_session_sends_is_read_once_however_it_is_cut(
    case: dict[str, Any], replay: str, transport: Choice
) -> None:
    log, ids = case["log"], case[replay]
    heard: list[dict[str, Any]] = []

    def written(after: int) -> list[tuple[int, dict[str, Any]]]:
        """Events of the ids after that; a joined one has the text of all it covers."""
        found, before = [], after
        for number in (each for each in ids if each > after):
            items = log[before:number]
            text = "".join(item for item in items if not item.startswith("*"))
            done = case["closed"] and number == len(log)
            found.append((number, {"token": text, "done": done, "finish_reason": "stop"}))
            before = number
        return found

    cut = len(ids) // 2
    had = ids[cut - 1] if cut else case["after"]
    whole = written(case["after"])
    frames = [event(number, **data) for number, data in whole]
    messages = [told(number, **data) for number, data in whole]
    # The first connection brings some of it, over SSE also half an event; the second repeats all of it.
    half = (frames[cut] if cut < len(frames) else b"id: 9999\ndata: {}")[:-5]
    fates: dict[str, list[Fate]] = {
        "sse": [streams(b"".join(frames[:cut]) + half, each=7), streams(b"".join(frames)), says(204)],
        "websocket": [
            talks([STARTED, *messages[:cut], COME_BACK], close=RESTART, heard=heard),
            talks([STARTED, f"[{','.join(messages)}]" if messages else OVER, COME_BACK], close=RESTART, heard=heard),
            talks(OVER, heard=heard),
        ],
    }

    async def scene() -> None:
        async with (
            Service(fates[transport]) as service,
            Client(service.url, transport=transport, patience_s=5) as client,
        ):
            stream = client.resume(ID, case["after"])
            got = [number async for number, _ in stream]
            assert (got, stream.text) == (ids, case["text"])
            cursors = Asked(service, heard).cursors
            if len(cursors) > 1:
                assert cursors[1] == str(had)

    play(scene())
