"""What each front writes while nothing is to be told: only what its official clients read past."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from openai._streaming import SSEDecoder  # the decoder of the official SDK, which has no public name

from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.reading.session import Session
from tokenrelay.server.edge import Edge
from tokenrelay.server.fronts import chat_completions, responses, ui
from tokenrelay.server.http import Call
from tokenrelay.server.settings import Settings
from tokenrelay.server.transports.front import FrontResponse, Writing

KEPT = Remembered("chat", 7)


def heartbeat(writing: Writing, cursor: int) -> bytes:
    edge, session = SimpleNamespace(settings=Settings()), Session("s", cursor, is_compact=True, now=0.0)

    async def scene() -> bytes:
        return FrontResponse(cast(Edge, edge), cast(Call, None), session, None, writing)._heartbeat()

    return asyncio.run(scene())


def test_chat_completions_has_a_comment_before_the_first_entry_and_then_an_empty_piece() -> None:
    writing = chat_completions.Writing("s", KEPT, "m")
    assert heartbeat(writing, 0) == b": hb\n\n"
    [event] = SSEDecoder().iter_bytes(iter([heartbeat(writing, 3)]))
    assert event.json()["choices"][0]["delta"] == {"content": ""}


def test_after_an_id_the_comment_ends_no_event() -> None:
    writing = chat_completions.Writing("s", KEPT, "m", with_ids=True)
    body = b"id: 3\ndata: {}\n\n" + heartbeat(writing, 3) + b"data: {}\n\n"
    events = list(SSEDecoder().iter_bytes(iter([body])))
    assert [event.data for event in events] == ["{}", "{}"]


@pytest.mark.parametrize("writing", [responses.Writing("s", KEPT, "m", -1), ui.Writing("s", KEPT)])
@pytest.mark.parametrize("cursor", [0, 3])
def test_the_others_have_a_comment(writing: Any, cursor: int) -> None:
    assert heartbeat(writing, cursor) == b": hb\n\n"
