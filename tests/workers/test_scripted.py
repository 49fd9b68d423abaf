"""The scripted model: the same on every run, and each of its parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tokenrelay.workers.conversation import Delta, Finish, Message, ModelRequest, Piece, ToolUse
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.scripted import Scripted

ASKED = Message("user", "one two three")
CALLED = Message("assistant", "", tool_calls=(ToolUse("call_0", "calculator", {"expression": "6*7"}),))
ANSWERED = Message("tool", "42", tool_call_id="call_0")


def play(name: str, messages: Sequence[Message] = (ASKED,), max_tokens: int | None = None) -> list[Piece]:
    async def scene() -> list[Piece]:
        request = ModelRequest(f"scripted?interval_ms=0&{name}", messages, max_tokens=max_tokens)
        return [piece async for piece in Scripted().stream(request)]

    return asyncio.run(scene())


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta))


def test_it_writes_its_words_one_delta_each() -> None:
    pieces = play("tokens=3")
    assert pieces == [Delta("w0 "), Delta("w1 "), Delta("w2 "), Finish("stop", 3, 3, "scripted")]
    assert play("tokens=3") == pieces


def test_a_bound_on_tokens_ends_it_by_length() -> None:
    assert play("tokens=9", max_tokens=2)[-1] == Finish("length", 3, 2, "scripted")


def test_it_calls_the_calculator_and_carries_on_after_the_answer() -> None:
    first = play("tokens=4&tool_after=2")
    assert text(first) == "w0 w1 "
    assert first[-2:] == [
        ToolUse("call_0", "calculator", {"expression": "6*7"}),
        Finish("tool_calls", 3, 2, "scripted"),
    ]
    second = play("tokens=4&tool_after=2", [ASKED, CALLED, ANSWERED])
    assert text(second) == "w2 w3 "
    assert second[-1] == Finish("stop", 0, 2, "scripted")


@pytest.mark.parametrize("after", [0, 2, 3])
def test_it_fails_where_it_was_asked_to(after: int) -> None:
    written: list[Piece] = []

    async def scene() -> None:
        request = ModelRequest(f"scripted?tokens=3&interval_ms=0&fail_after={after}", [ASKED])
        async for piece in Scripted().stream(request):
            written.append(piece)  # noqa: PERF401  what came before the failure is wanted too

    with pytest.raises(ProviderError) as failure:
        asyncio.run(scene())
    assert failure.value.retryable
    assert text(written) == "".join(f"w{number} " for number in range(after))
