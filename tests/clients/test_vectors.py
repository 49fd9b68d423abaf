"""The Python client against the conformance cases that the JavaScript client reads too (`protocol/vectors`).

`sse_decode.json` is read by tests/protocol/test_sse.py: the decoder is the one of `protocol`. In JavaScript all five
are read by clients/javascript/tests/vectors.test.js and stream.test.js.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from clients.python import Client, Failed, Refused
from clients.python.errors import refusal_of
from tests.clients.service import ID, PATIENCE_S, Service, event, says, streams

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


@pytest.mark.parametrize("case", cases("events"))
def test_an_event_is_read_as_it_is_written(case: dict[str, Any]) -> None:
    async def scene() -> None:
        fates = [streams(case["sse"].encode(), each=1), says(204)]
        async with Service(fates) as service, Client(service.url, patience_s=5) as client:
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
                assert service.asked[1][2]["Last-Event-ID"] == str(case["id"])

    play(scene())


@pytest.mark.parametrize("case", cases("errors", "refusals"))
def test_a_refusal_is_typed(case: dict[str, Any]) -> None:
    row = next(row for row in read("errors")["rows"] if row["code"] == case["code"])

    async def scene() -> None:
        fates = [says(row["status"], case["body"])]
        async with Service(fates) as service, Client(service.url, patience_s=0) as client:
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


@pytest.mark.parametrize("case", cases("cursors"))
def test_a_cursor_is_sent_as_it_is_meant(case: dict[str, Any]) -> None:
    async def scene() -> None:
        error, answer = case.get("error"), case.get("answer")
        fate = says(204) if answer == "nothing_more" else streams(event(case["last_id"] + 1, done=True))
        if error == "CURSOR_AHEAD":
            fate = says(409, {"error": "beyond", "error_code": error})
        async with Service([fate]) as service, Client(service.url, patience_s=0) as client:
            if error is not None:
                with pytest.raises(Refused) as caught:
                    await client.resume(ID, case["text"]).completion()
                assert caught.value.code == error
                assert len(service.asked) == (error == "CURSOR_AHEAD")
                return
            end = await client.resume(ID, case["text"]).completion()
            assert (end is None) == (answer == "nothing_more")
            assert service.asked[0][2]["Last-Event-ID"] == str(case["after"])

    play(scene())


@pytest.mark.parametrize("replay", ["exact", "compact"])
@pytest.mark.parametrize("case", cases("session"))
def test_what_a_session_sends_is_read_once_however_it_is_cut(case: dict[str, Any], replay: str) -> None:
    log, ids = case["log"], case[replay]

    def written(after: int) -> list[bytes]:
        """Frames of the ids after that; a joined one has the text of all it covers."""
        found, before = [], after
        for number in (each for each in ids if each > after):
            items = log[before:number]
            text = "".join(item for item in items if not item.startswith("*"))
            found.append(event(number, token=text, done=case["closed"] and number == len(log), finish_reason="stop"))
            before = number
        return found

    async def scene() -> None:
        cut = len(ids) // 2
        had = ids[cut - 1] if cut else case["after"]
        whole = written(case["after"])
        # The first connection brings some of it, and half an event; the second repeats all of it.
        half = (whole[cut] if cut < len(whole) else b"id: 9999\ndata: {}")[:-5]
        fates = [streams(b"".join(whole[:cut]) + half, each=7), streams(b"".join(whole)), says(204)]
        async with Service(fates) as service, Client(service.url, patience_s=5) as client:
            stream = client.resume(ID, case["after"])
            got = [number async for number, _ in stream]
            assert (got, stream.text) == (ids, case["text"])
            if len(service.asked) > 1:
                assert service.asked[1][2]["Last-Event-ID"] == str(had)

    play(scene())
