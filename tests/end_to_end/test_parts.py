"""Pictures, files and sounds on their way through an edge, over both transports: into Redis, within bounds, and out."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.fleet import Fleet
from tests.raw import Raw
from tests.wire import Sse, Ws, call, start
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.parts import TextPart

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's word to its users

CHAT = "/api/chat"
ALICE = {"Authorization": "Bearer alice-secret"}
BOB = {"Authorization": "Bearer bob-secret"}
MIB = 2**20
CATALOGUE = """
[[model]]
id = "sees"
provider = "Acme"
dialect = "scripted"
upstream = "sees"
accepts = ["images", "files", "audio"]

[[model]]
id = "reads"
provider = "Acme"
dialect = "scripted"
upstream = "reads"
accepts = ["files"]
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    path: Path = tmp_path_factory.mktemp("catalogue") / "models.toml"
    path.write_text(CATALOGUE)
    env = {
        "TOKENRELAY_API_KEYS": "alice:alice-secret, bob:bob-secret", "TOKENRELAY_CATALOGUE": str(path),
        "TOKENRELAY_MAX_BODY_BYTES": "65536", "TOKENRELAY_MAX_PART_BYTES": str(2 * MIB),
        "TOKENRELAY_MAX_PARTS_BYTES": str(3 * MIB), "TOKENRELAY_MAX_PARTS_STORED_BYTES": str(50 * MIB),
    }  # fmt: skip
    with Fleet(edges=1, workers=0, env=env) as started:  # what nobody takes can be looked at
        yield started


def picture(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}


def asked(*parts: dict[str, Any], model: str = "sees", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": list(parts)}], **more}


def stored(fleet: Fleet, stream_id: str) -> list[bytes | None]:
    redis = fleet.redis()
    packed = request.unpack(redis.hget(keys.meta(stream_id), "request"))
    [content] = packed.contents
    assert isinstance(content, list)
    numbers = [None if isinstance(part, TextPart) else part.part for part in content]
    return [redis.get(keys.part(stream_id, number)) for number in numbers if number is not None]


def left(fleet: Fleet) -> list[bytes]:
    return [name for name in fleet.redis().scan_iter("*") if b"part" in name]


async def cancel(fleet: Fleet, stream_id: str) -> None:
    assert (await call("DELETE", f"{fleet.urls[0]}/api/streams/{stream_id}", headers=ALICE))[0] == 200


BLOBS = [bytes(range(256)) * 16, b"\x00" * (2 * MIB), b"RIFF"]
PARTS = [
    {"type": "text", "text": "what is it?"},
    picture(BLOBS[0]),
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    {"type": "file", "file": {"filename": "a.pdf",
                              "file_data": f"data:application/pdf;base64,{base64.b64encode(BLOBS[1]).decode()}"}},
    {"type": "input_audio", "input_audio": {"data": base64.b64encode(BLOBS[2]).decode(), "format": "wav"}},
]  # fmt: skip


@pytest.mark.parametrize("transport", ["sse", "json", "msgpack"])
def test_bytes_reach_redis_as_they_are_and_leave_it_with_the_end(fleet: Fleet, transport: str) -> None:
    async def scene() -> None:
        url, body = fleet.urls[0], asked(*PARTS)
        if transport == "sse":
            async with Sse.post(url, body, ALICE) as stream:
                assert stream.status == 200
                stream_id = stream.stream_id
        else:
            async with Ws(url, binary=transport == "msgpack", headers=ALICE) as socket:
                stream_id = await socket.start(body)
        assert stored(fleet, stream_id) == BLOBS
        assert len(fleet.redis().hget(keys.meta(stream_id), "request")) < 1_000
        await cancel(fleet, stream_id)
        assert left(fleet) == []

    asyncio.run(scene())


def test_the_same_call_again_leads_to_the_same_stream_and_stores_nothing(fleet: Fleet) -> None:
    async def scene() -> None:
        key = ALICE | {"Idempotency-Key": "one"}
        async with Sse.post(fleet.urls[0], asked(picture(b"a")), key) as stream:
            first = stream.stream_id
        async with Sse.post(fleet.urls[0], asked(picture(b"a")), key) as stream:
            assert stream.stream_id == first
        status, said, _ = await call("POST", fleet.urls[0] + CHAT, asked(picture(b"b")), key)
        assert (status, said["field"]) == (422, "Idempotency-Key")
        assert [name for name in left(fleet) if b":part:" in name] == [keys.part(first, 0).encode()]
        await cancel(fleet, first)
        assert left(fleet) == []

    asyncio.run(scene())


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("a part that is too large", asked(picture(b"a" * (2 * MIB + 1))), "messages[0].content[0]", "at most 2097152"),
    ("too much in all", asked(*[picture(b"a" * (MIB + 1))] * 3), "messages[0].content[2]", "in all parts"),
    ("too many", asked(*[picture(b"a")] * 21), "messages[0].content[20]", "at most 20 parts"),
    ("no base64", asked({"type": "image_url", "image_url": {"url": "data:image/png;base64,a"}}),
     "messages[0].content[0].image_url.url", "base64"),
    ("a named model that does not accept it", asked(PARTS[3], PARTS[1], model="reads"), "messages[0].content[1]",
     "reads does not accept images"),
    ("nobody accepts it", asked(picture(b"a"), model="neuroswitch"), "messages[0].content[0]", "not accept images"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_part_that_cannot_be_is_refused_with_its_field(
    fleet: Fleet, body: dict[str, Any], field: str, words: str
) -> None:
    async def scene() -> None:
        status, said, _ = await call("POST", fleet.urls[0] + CHAT, body, ALICE)
        assert (status, said["error_code"], said["field"]) == (422, "VALIDATION_ERROR", field)
        assert words in said["issue"]
        async with Ws(fleet.urls[0], headers=ALICE) as socket:
            await socket.say({"type": "start", "ref": 1, **body})
            answer = await socket.hear()
            assert (answer["type"], answer["error_code"], answer["field"]) == ("error", "VALIDATION_ERROR", field)
            await socket.say({"type": "ping", "ref": 2})
            assert (await socket.hear())["type"] == "pong"
        assert left(fleet) == []

    asyncio.run(scene())


TEXT = "a" * 100_000


def test_what_is_large_without_its_parts_is_too_large(fleet: Fleet) -> None:
    async def scene() -> None:
        for body in (asked({"type": "text", "text": TEXT}), asked(picture(b"a"), {"type": "text", "text": TEXT})):
            status, said, _ = await call("POST", fleet.urls[0] + CHAT, body, ALICE)
            assert (status, said["error_code"], said["max_bytes"]) == (413, "PAYLOAD_TOO_LARGE", 65_536)
            async with Ws(fleet.urls[0], headers=ALICE) as socket:
                await socket.say({"type": "start", "ref": 1, **body})
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.hear()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1009

    asyncio.run(scene())


def test_a_body_larger_than_all_is_refused_and_the_client_that_goes_on_sending_reads_the_answer(fleet: Fleet) -> None:
    """RFC 9112 section 9.6: closed at once, the connection would be reset, and the answer lost."""
    size = 12 * MIB

    async def scene() -> None:
        async with Raw(fleet.urls[0]) as peer:
            await peer.say(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n")
            await peer.say(f"Authorization: {ALICE['Authorization']}\r\nContent-Type: application/json\r\n\r\n")
            for _ in range(size // MIB):  # as clients do that look at the answer when all is sent
                await peer.say(b" " * MIB)
            answer = await peer.all()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["max_bytes"] == 65_536 + 4 * MIB

    asyncio.run(scene())


def test_strangers_are_not_listened_to_however_much_they_announce(fleet: Fleet) -> None:
    async def scene() -> None:
        async with Raw(fleet.urls[0]) as peer:
            await peer.say(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {3 * MIB}\r\n\r\n")
            assert (await peer.head()).startswith(b"HTTP/1.1 401 ")

    asyncio.run(scene())


def test_one_key_may_fill_a_tenth_of_the_room(fleet: Fleet) -> None:
    async def scene() -> None:
        body = asked(picture(b"a" * (2 * MIB)))
        streams = [await start(fleet.urls[0], **asked_of(body)) for _ in range(2)]
        status, said, headers = await call("POST", fleet.urls[0] + CHAT, body, ALICE)
        assert (status, said["error_code"]) == (503, "OVERLOADED")
        assert "Retry-After" in headers
        for is_binary in (False, True):
            async with Ws(fleet.urls[0], binary=is_binary, headers=ALICE) as socket:
                await socket.say({"type": "start", "ref": 1, **body})
                answer = await socket.hear()
                assert (answer["type"], answer["ref"], answer["error_code"]) == ("error", 1, "OVERLOADED")
                assert answer["retryable"]
                assert answer["retry_after"] > 0
        async with Sse.post(fleet.urls[0], body, BOB) as stream:
            assert stream.status == 200
            other = stream.stream_id
        for stream_id in streams:
            await cancel(fleet, stream_id)
        async with Sse.post(fleet.urls[0], body, ALICE) as stream:
            assert stream.status == 200
            await cancel(fleet, stream.stream_id)
        assert (await call("DELETE", f"{fleet.urls[0]}/api/streams/{other}", headers=BOB))[0] == 200
        assert left(fleet) == []

    asyncio.run(scene())


def asked_of(body: dict[str, Any]) -> dict[str, Any]:
    """For `start`, which brings a message of its own."""
    return {"model": body["model"], "headers": ALICE, "messages": body["messages"], "message": None}


def test_messages_with_parts_count_as_one_for_the_rate(fleet: Fleet) -> None:
    """512 at once is what a socket may say; each of these would be 40 by its size."""

    async def scene() -> None:
        body = asked(picture(b"a" * 480_000), model="reads")  # refused, so that nothing is stored
        async with Ws(fleet.urls[0], headers=ALICE) as socket:
            for _ in range(30):
                await socket.say({"type": "start", "ref": 1, **body})
                assert (await socket.hear())["error_code"] == "VALIDATION_ERROR"

    asyncio.run(scene())
