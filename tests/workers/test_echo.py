"""The turn goes back as it came, in its order, to who made it and to nobody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from tests.workers.asking import HI, answer, ask, in_turn, refusal
from tests.workers.oracle.test_odd_servers import STOP, block, call, candidate, chat, made, response, stopped
from tests.workers.oracle.test_odd_servers import says as event
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked, says
from tokenrelay.workers.conversation import Delta, Finish, Message, ModelRequest, Piece, ToolSpec, ToolUse
from tokenrelay.workers.providers.anthropic import Anthropic
from tokenrelay.workers.providers.base import Accepts
from tokenrelay.workers.providers.chat_completions import ChatCompletions

TOOLS: Final = [ToolSpec("f", "", {}), ToolSpec("my.g", "", {})]
THINKS: Final = Accepts(thinks=True)


def thought(index: int, text: str) -> bytes:
    changes = [{"type": "thinking_delta", "thinking": text}, {"type": "signature_delta", "signature": f"s{index}"}]
    return block(index, "thinking", *changes, thinking="", signature="")


TURN: Final = (
    thought(0, "one")
    + block(1, "text", {"type": "text_delta", "text": "Let me "}, {"type": "text_delta", "text": "see."}, text="")
    + block(2, "tool_use", {"type": "input_json_delta", "partial_json": '{"a": 1}'}, id="t0", name="f", input={})
    + thought(3, "two")
    + block(4, "redacted_thinking", data="sealed")
    + block(5, "tool_use", id="t1", name="my_g", input={})
    + stopped("tool_use")
    + STOP
)
WANTED: Final = [
    {"type": "thinking", "thinking": "one", "signature": "s0"},
    {"type": "text", "text": "Let me see."},
    {"type": "tool_use", "id": "t0", "name": "f", "input": {"a": 1}},
    {"type": "thinking", "thinking": "two", "signature": "s3"},
    {"type": "redacted_thinking", "data": "sealed"},
    {"type": "tool_use", "id": "t1", "name": "my_g", "input": {}},
]


class FakeAnthropic:
    """Answers with the turn; then takes it back in that order only, and says 400 to any other, as the real one does."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def script(self, _: Reader, writer: Writer) -> None:
        body = self.requests[-1]
        turns = [turn for turn in body["messages"] if turn["role"] == "assistant"]
        if not turns:
            writer.write(HEAD + chunked(TURN) + END)
        elif turns[0]["content"] == WANTED:
            writer.write(HEAD + chunked(block(0, "text", {"type": "text_delta", "text": "42"}, text="")))
            writer.write(chunked(stopped("end_turn") + STOP) + END)
        else:
            said = {"type": "invalid_request_error", "message": "messages.1.content: blocks cannot be modified"}
            error = json.dumps({"type": "error", "error": said}).encode()
            writer.write(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n" % len(error) + error)


def answered(pieces: list[Piece], request: ModelRequest) -> ModelRequest:
    """The next round: the turn, and what its tools gave."""
    uses = tuple(piece for piece in pieces if isinstance(piece, ToolUse))
    text = "".join(piece.text for piece in pieces if isinstance(piece, Delta))
    finish = pieces[-1]
    assert isinstance(finish, Finish)
    results = [Message("tool", "ok", tool_call_id=use.call_id) for use in uses]
    turn = Message("assistant", text, uses, echo=finish.echo)
    return msgspec.structs.replace(request, messages=[*request.messages, turn, *results])


async def read(provider: Any, request: ModelRequest) -> list[Piece]:
    return [piece async for piece in provider.stream(request)]


def test_anthropic_gets_its_turn_in_the_order_it_came() -> None:
    fake = FakeAnthropic()

    async def script(reader: Reader, writer: Writer) -> None:
        fake.requests.append(json.loads(upstream.requests[-1][2]))
        await fake.script(reader, writer)

    upstream = Upstream(script)

    async def run() -> None:
        async with upstream, aiohttp.ClientSession() as session:
            provider = Anthropic(api_key="k", session=session, base_url=upstream.root, accepts=THINKS)
            request = ModelRequest("m", HI, tools=TOOLS)
            pieces = await read(provider, request)
            assert [use.name for use in pieces if isinstance(use, ToolUse)] == ["f", "my.g"]
            again = await read(provider, answered(pieces, request))
            assert [piece.text for piece in again if isinstance(piece, Delta)] == ["42"]
            # Whoever lost the text beside the calls has the same turn.
            request = answered(pieces, request)
            silent = [
                msgspec.structs.replace(turn, content="") if turn.tool_calls else turn for turn in request.messages
            ]
            assert await read(provider, msgspec.structs.replace(request, messages=silent))

    asyncio.run(asyncio.wait_for(run(), 20))


def script_of(wire: bytes) -> Script:
    return says(HEAD, chunked(wire), END)


REASONING: Final = {"type": "reasoning", "id": "rs_0", "summary": [], "encrypted_content": "sealed"}
OPENAI: Final = (
    event("output_item.done", output_index=0, item=REASONING)
    + event("output_item.added", output_index=1, item={"type": "message", "phase": "commentary"})
    + event("output_text.delta", output_index=1, content_index=0, delta="Let me see.")
    + event("output_item.done", output_index=2, item={**REASONING, "id": "rs_2", "encrypted_content": "sealed2"})
    + made(3, '{"a": 1}', call_id="t0")
    + response("completed")
)
GEMINI: Final = (
    candidate({"text": "hm", "thought": True})
    + candidate({"text": "Let me "})
    + candidate({"text": "see."}, {"text": "", "thoughtSignature": "sealed"})
    + candidate({"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "sealed2"}, finish="STOP")
)
DEEPSEEK: Final = (
    chat(reasoning_content="sea") + chat(reasoning_content="led") + call('{"a": 1}', "f", 0, "t0") + chat("tool_calls")
)
DETAILS: Final = [
    {"type": "reasoning.text", "index": 0, "text": "sea", "signature": None},
    {"type": "reasoning.text", "index": 0, "text": "led", "signature": "s"},
    {"type": "reasoning.encrypted", "index": 1, "data": "sealed2"},
]
OPENROUTER: Final = (
    b"".join(chat(reasoning_details=[detail]) for detail in DETAILS) + call("{}", "f", 0, "t0") + chat("tool_calls")
)
COMPATIBLE: Final = (
    chat(
        tool_calls=[
            {
                "index": 0, "id": "t0", "function": {"name": "f", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": "sealed"}},
            }
        ]
    )
    + chat("tool_calls")
)  # fmt: skip
CALLED: Final = {"id": "t0", "type": "function", "function": {"name": "f", "arguments": "{}"}}

BACK: Final[list[tuple[str, str, bytes, list[Any]]]] = [
    # dialect, who, what it said, what it is sent of it
    ("responses", "OpenAI", OPENAI, [
        REASONING,
        {"type": "message", "role": "assistant", "phase": "commentary", "content": "Let me see."},
        {**REASONING, "id": "rs_2", "encrypted_content": "sealed2"},
        {"type": "function_call", "call_id": "t0", "name": "f", "arguments": '{"a": 1}'},
    ]),
    ("gemini", "Google", GEMINI, [{"role": "model", "parts": [
        {"text": "Let me see.", "thoughtSignature": "sealed"},
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "sealed2"},
    ]}]),
    ("chat_completions", "DeepSeek", DEEPSEEK, [{
        "role": "assistant", "content": None, "reasoning_content": "sealed",
        "tool_calls": [{"id": "t0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }]),
    ("chat_completions", "OpenRouter", OPENROUTER, [{
        "role": "assistant", "content": None, "tool_calls": [CALLED],
        "reasoning_details": [{**DETAILS[0], "text": "sealed", "signature": "s"}, DETAILS[2]],
    }]),
    ("chat_completions", "Gemini's compatible API", COMPATIBLE, [{
        "role": "assistant", "content": None,
        "tool_calls": [{**CALLED, "extra_content": {"google": {"thought_signature": "sealed"}}}],
    }]),
]  # fmt: skip


def turns_in(body: dict[str, Any]) -> list[Any]:
    turns = body.get("messages") or body.get("input") or body["contents"]
    assert isinstance(turns, list)
    return turns


@pytest.mark.parametrize(("dialect", "who", "wire", "back"), BACK, ids=[row[1] for row in BACK])
def test_a_turn_goes_back_as_it_came_and_to_nobody_else(dialect: str, who: str, wire: bytes, back: list[Any]) -> None:
    request = ModelRequest("m", HI, tools=TOOLS)
    first = ask(dialect, script_of(wire), request, accepts=THINKS)
    following = answered(first.pieces[0], request)
    echo = following.messages[1].echo
    assert echo is not None, who
    assert msgspec.json.decode(msgspec.json.encode(echo.value)) == echo.value  # it may wait in Redis
    again = ask(dialect, answer(dialect), following, accepts=THINKS)
    assert turns_in(again.bodies[0])[1 : 1 + len(back)] == back
    # Another model of the same provider, and another source of the same dialect: the plain content.
    other = ask(dialect, answer(dialect), msgspec.structs.replace(following, model="m-2"), accepts=THINKS)
    turn = msgspec.structs.replace(following.messages[1], echo=msgspec.structs.replace(echo, source="elsewhere"))
    stranger = msgspec.structs.replace(following, messages=[following.messages[0], turn, *following.messages[2:]])
    others = ask(dialect, answer(dialect), stranger, accepts=THINKS)
    for body in (other.bodies[0], others.bodies[0]):
        assert "sealed" not in json.dumps(body)
        assert "f" in json.dumps(turns_in(body)[1:])


def test_a_turn_that_was_edited_is_plain() -> None:
    request = ModelRequest("m", HI, tools=TOOLS)
    following = answered(ask("responses", script_of(OPENAI), request, accepts=THINKS).pieces[0], request)
    edited = msgspec.structs.replace(following.messages[1], content="Something else.")
    body = ask(
        "responses",
        answer("responses"),
        msgspec.structs.replace(following, messages=[HI[0], edited, *following.messages[2:]]),
        accepts=THINKS,
    ).bodies[0]
    assert "sealed" not in json.dumps(body)
    assert "Something else." in json.dumps(body)


NOT_TAKEN: Final = [
    ("responses", OPENAI, {"code": "invalid_encrypted_content", "message": "could not be verified"}),
    ("anthropic", TURN, {"type": "invalid_request_error", "message": "Invalid `signature` in `thinking` block"}),
    ("gemini", GEMINI, {"status": "INVALID_ARGUMENT", "message": "Thought signature is not valid."}),
    ("chat_completions", DEEPSEEK, {"message": "property 'reasoning_content' is unsupported"}),
]


@pytest.mark.parametrize(("dialect", "wire", "error"), NOT_TAKEN, ids=[row[0] for row in NOT_TAKEN])
def test_an_echo_that_is_refused_is_left_out_once(dialect: str, wire: bytes, error: dict[str, Any]) -> None:
    request = ModelRequest("m", HI, tools=TOOLS)
    following = answered(ask(dialect, script_of(wire), request, accepts=THINKS).pieces[0], request)
    asked = ask(dialect, in_turn(refusal(error), answer(dialect)), following, accepts=THINKS)
    assert asked.errors == [None]
    with_it, without = (json.dumps(body) for body in asked.bodies)
    mark = '"s0"' if dialect == "anthropic" else "sealed"
    assert (mark in with_it, mark in without) == (True, False)


def test_two_servers_of_one_dialect_are_two_sources() -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            one = ChatCompletions(name="one", base_url="http://127.0.0.1", session=session)
            other = ChatCompletions(name="other", base_url="http://127.0.0.1", session=session)
            assert one.source != other.source

    asyncio.run(run())
