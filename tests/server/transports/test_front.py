"""A reader in another dialect that accepts nothing: what it lets go is told again, and nothing is written twice."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tokenrelay.protocol.events import Completion, Token
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.reading.session import Session
from tokenrelay.protocol.store.entries import Entry, pack, unpack_entry
from tokenrelay.server.edge import Edge
from tokenrelay.server.fronts import responses
from tokenrelay.server.http import Call
from tokenrelay.server.live.channel import Channel
from tokenrelay.server.metrics import Metrics
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports.front import FrontResponse

KEPT = Remembered("responses", 1_700_000_000)
ENTRIES: list[Entry] = [
    *(unpack_entry(pack(Token(1, "m", f"w{number} ".ljust(400)))) for number in range(300)),
    unpack_entry(pack(Completion(1, "m", "m", "p", "stop", 0, 0, 0.0))),
]


class Client:
    """Accepts data until it is told to stop, and again when it is told to go on."""

    def __init__(self) -> None:
        self.taken = b""
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.waits = asyncio.Event()

    async def write(self, body: bytes, more: bool = True) -> None:
        self.taken += body
        if not self.goes_on.is_set():
            self.waits.set()
            await self.goes_on.wait()


class Window:
    """Pages of the log, as `Replays` gives them."""

    def entries(self, session: Session) -> asyncio.Future[list[tuple[int, Entry]]]:
        page: asyncio.Future[list[tuple[int, Entry]]] = asyncio.get_running_loop().create_future()
        page.set_result(list(enumerate(ENTRIES, 1))[session.cursor : session.cursor + 20])
        return page


async def read(stalls: int) -> tuple[bytes, list[int]]:
    """What a reader is sent that stops so many times; characters its fold keeps after each."""
    client, kept = Client(), list[int]()
    edge = cast(Edge, SimpleNamespace(settings=Settings(), metrics=Metrics(), replays=Window(), auth=None))
    call = cast(Call, SimpleNamespace(send=None, write=client.write, identity=None))
    channel = Channel("s", 0.0, is_new=True)
    channel.feed.anchor(len(ENTRIES))
    writing = responses.Writing("s", KEPT, "m", -1)
    reader = FrontResponse(edge, call, Session("s", 0, is_compact=False, now=0.0), channel, writing)
    client.taken += writing.opening()
    pump = asyncio.create_task(reader._pump())
    for number in range(stalls):
        for _ in range(4):
            await asyncio.sleep(0)
        client.goes_on.clear()
        await client.waits.wait()
        client.waits.clear()
        reader.tick(time.monotonic() + 2 ** (number + 1))
        kept.append(writing._fold.characters)
        client.goes_on.set()
    async with asyncio.timeout(5):
        await pump
    return client.taken, kept


@pytest.mark.parametrize("stalls", [1, 2, 3])
def test_an_answer_is_let_go_while_its_client_accepts_nothing_and_told_whole_after_it(stalls: int) -> None:
    whole, _ = asyncio.run(read(0))
    told, kept = asyncio.run(read(stalls))
    assert told == whole
    assert all(characters <= responses.MAX_KEPT_CHARACTERS for characters in kept)
    assert whole.count(b"event: response.output_text.delta") == 300


def test_a_reader_that_moves_now_and_then_has_its_log_folded_ever_less() -> None:
    async def scene() -> list[float]:
        writing = SimpleNamespace(form=None, let_go=lambda: True)
        edge = cast(Edge, SimpleNamespace(settings=Settings(), auth=None, metrics=Metrics()))
        call = cast(Call, SimpleNamespace(send=None, identity=None))
        reader = FrontResponse(edge, call, Session("s", 0, is_compact=False, now=0.0), None, cast(Any, writing))
        rewound = []
        reader.session.sending_since = 0.0
        for tenths in range(300):
            reader.session.cursor = 7
            reader.tick(tenths / 10)
            if not reader.session.cursor:
                rewound.append(tenths / 10)
        return rewound

    assert asyncio.run(scene()) == [1.0, 2.0, 4.0, 8.0, 16.0]
