"""What compatible servers send beside the reference, each in its way: read leniently, and never a cut answer as whole.

A row is a body, and what is understood: texts and calls in their order, then the finish reason or the error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import zlib
from typing import Any, Final

import aiohttp
import pytest

from tests.workers.oracle.cases import DIALECTS
from tests.workers.oracle.test_oracle import PARSERS, ours
from tests.workers.oracle.test_parsers import data, writes
from tests.workers.upstream import END, HEAD, Reader, Upstream, Writer, chunked
from tokenrelay.workers.conversation import Delta, Finish, ModelRequest, Thinking, ToolInput, ToolUse
from tokenrelay.workers.providers.base import ProviderError

DONE: Final = b"data: [DONE]\n\n"
RETRY: Final = "error, retryable"


def chat(finish: str | None = None, /, **delta: Any) -> bytes:
    return data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def call(arguments: Any = None, name: str | None = None, index: int | None = 0, call_id: str | None = None) -> bytes:
    function = {field: value for field, value in (("name", name), ("arguments", arguments)) if value is not None}
    fragment = {"index": index, "id": call_id, "function": function}
    return chat(tool_calls=[{field: value for field, value in fragment.items() if value is not None}])


def block(index: int, kind: str, *changes: dict[str, Any], **fields: Any) -> bytes:
    start = {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}
    deltas = [{"type": "content_block_delta", "index": index, "delta": change} for change in changes]
    return b"".join(map(data, [start, *deltas, {"type": "content_block_stop", "index": index}]))


def stopped(reason: str, **usage: Any) -> bytes:
    return data({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage})


STOP: Final = data({"type": "message_stop"})


def text_block(index: int, text: str) -> bytes:
    return block(index, "text", {"type": "text_delta", "text": text}, text="")


def says(kind: str, **fields: Any) -> bytes:
    return data({"type": f"response.{kind}", **fields})


def response(kind: str, **fields: Any) -> bytes:
    return says(kind, response={"status": kind, **fields})


def made(index: int, arguments: Any, name: str = "f", call_id: str = "c0") -> bytes:
    item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return says("output_item.done", output_index=index, item=item)


def candidate(*parts: Any, finish: str | None = None) -> bytes:
    return data({"candidates": [{"content": {"parts": list(parts)}, "finishReason": finish}]})


def gemini_call(args: Any, name: str = "f") -> bytes:
    return candidate({"functionCall": {"name": name, "args": args}}, finish="STOP")


A: Final = {"a": 1}
ROWS: Final[list[tuple[str, str, bytes, list[Any]]]] = [
    # Arguments in every shape
    ("chat_completions", "an object", call(A, "f") + chat("tool_calls"), [("f", A), "tool_calls"]),
    ("chat_completions", "null as text", call("null", "f") + chat("tool_calls"), [("f", {}), "tool_calls"]),
    ("chat_completions", "null", call(None, "f") + chat("tool_calls"), [("f", {}), "tool_calls"]),
    ("chat_completions", "white space", call("  ", "f") + chat("tool_calls"), [("f", {}), "tool_calls"]),
    (
        "chat_completions",
        "encoded twice",
        call(json.dumps(json.dumps(A)), "f") + chat("tool_calls"),
        [
            ("f", A),
            "tool_calls",
        ],
    ),
    ("chat_completions", "an empty text, encoded", call('""', "f") + chat("tool_calls"), [("f", {}), "tool_calls"]),
    ("responses", "an object", made(0, A) + response("completed"), [("f", A), "tool_calls"]),
    ("responses", "null as text", made(0, "null") + response("completed"), [("f", {}), "tool_calls"]),
    ("responses", "null", made(0, None) + response("completed"), [("f", {}), "tool_calls"]),
    (
        "responses",
        "encoded twice",
        made(0, json.dumps(json.dumps(A))) + response("completed"),
        [("f", A), "tool_calls"],
    ),
    (
        "responses",
        "an object in the event that ends the arguments",
        says("output_item.added", output_index=0, item={"type": "function_call", "call_id": "c0", "name": "f"})
        + says("function_call_arguments.done", output_index=0, arguments=A)
        + response("completed"),
        [("f", A), "tool_calls"],
    ),
    (
        "anthropic",
        "an object",
        block(0, "tool_use", id="c0", name="f", input=A) + stopped("tool_use") + STOP,
        [
            ("f", A),
            "tool_calls",
        ],
    ),
    (
        "anthropic",
        "an object in a delta",
        block(0, "tool_use", {"type": "input_json_delta", "partial_json": A}, id="c0", name="f", input={})
        + stopped("tool_use")
        + STOP,
        [("f", A), "tool_calls"],
    ),
    (
        "anthropic",
        "text",
        block(0, "tool_use", id="c0", name="f", input='{"a": 1}') + stopped("tool_use") + STOP,
        [
            ("f", A),
            "tool_calls",
        ],
    ),
    (
        "anthropic",
        "null",
        block(0, "tool_use", id="c0", name="f", input=None) + stopped("tool_use") + STOP,
        [
            ("f", {}),
            "tool_calls",
        ],
    ),
    ("gemini", "text", gemini_call('{"a": 1}'), [("f", A), "tool_calls"]),
    ("gemini", "null", gemini_call(None), [("f", {}), "tool_calls"]),
    ("gemini", "encoded twice", gemini_call(json.dumps(json.dumps(A))), [("f", A), "tool_calls"]),
    (
        "gemini",
        "in pieces, each with its place",
        candidate({"functionCall": {"name": "f", "willContinue": True}})
        + candidate(
            {"functionCall": {"partialArgs": [{"jsonPath": "$.a.b", "stringValue": "Zü"}], "willContinue": True}}
        )
        + candidate(
            {
                "functionCall": {
                    "partialArgs": [
                        {"jsonPath": "$.a.b", "stringValue": "rich"},
                        {"jsonPath": "$.n[1]", "numberValue": 2},
                    ]
                }
            },
            finish="STOP",
        ),
        [("f", {"a": {"b": "Zürich"}, "n": [None, 2]}), "tool_calls"],
    ),
    # Parallel calls
    (
        "chat_completions",
        "two on one index, without ids",
        call('{"a": 1}', "f") + call('{"b": 2}', "g") + chat("tool_calls"),
        [("f", A), ("g", {"b": 2}), "tool_calls"],
    ),
    (
        "chat_completions",
        "two of one name on one index",
        call('{"a": 1}', "f") + call('{"a": 2}', "f") + chat("tool_calls"),
        [("f", A), ("f", {"a": 2}), "tool_calls"],
    ),
    (
        "chat_completions",
        "two without index and id, their arguments in pieces",
        call('{"a"', "f", None)
        + call(": 1}", None, None)
        + call('{"b"', "g", None)
        + call(": 2}", None, None)
        + chat("tool_calls"),
        [("f", A), ("g", {"b": 2}), "tool_calls"],
    ),
    (
        "chat_completions",
        "two on one index with ids, more of the second without one",
        call("", "f", 0, "x") + call('{"a": 1}') + call("", "g", 0, "y") + call('{"b": 2}') + chat("tool_calls"),
        [("f", A), ("g", {"b": 2}), "tool_calls"],
    ),
    (
        "chat_completions",
        "one name with every piece",
        call('{"a"', "f") + call(": 1}", "f") + call("", "f") + chat("tool_calls"),
        [("f", A), "tool_calls"],
    ),
    (
        "chat_completions",
        "two objects with one id",
        call(A, "f", 0, "x") + call({"b": 2}, "g", 1, "x") + chat("tool_calls"),
        [("f", A), ("g", {"b": 2}), "tool_calls"],
    ),
    # Content as a list
    (
        "chat_completions",
        "thinking and text in a list",
        chat(
            content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}]
        )
        + chat("stop"),
        ["<hm>", "Hi", "stop"],
    ),
    ("chat_completions", "bare texts in a list", chat(content=["Hel", "lo"]) + chat("stop"), ["Hel", "lo", "stop"]),
    # A finish that comes early
    (
        "chat_completions",
        "a finish with every chunk",
        chat("stop", content="Hello ") + chat("stop", content="there") + DONE,
        ["Hello ", "there", "stop"],
    ),
    ("chat_completions", "a finish, then text", chat("stop") + chat(content="Hello") + DONE, ["Hello", "stop"]),
    (
        "chat_completions",
        "a finish, then a call",
        chat("stop", content="So:") + call('{"a": 1}', "f") + DONE,
        ["So:", ("f", A), "tool_calls"],
    ),
    ("gemini", "an empty STOP, then text", candidate(finish="STOP") + candidate({"text": "Hi"}), ["Hi", "stop"]),
    (
        "gemini",
        "STOP with every chunk",
        candidate({"text": "a"}, finish="STOP") + candidate({"text": "b"}, finish="STOP"),
        [
            "a",
            "b",
            "stop",
        ],
    ),
    ("anthropic", "a stop reason, then text", stopped("end_turn") + text_block(0, "Hi") + STOP, ["Hi", "stop"]),
    # What an end means
    ("chat_completions", "the model's length", chat("model_length", content="a") + DONE, ["a", "length"]),
    *(
        ("chat_completions", f"{reason} is no end", chat(reason, content="a") + DONE, ["a", RETRY])
        for reason in ("error", "abort", "network_error", "insufficient_system_resource", "ERROR")
    ),
    ("chat_completions", "[DONE] alone after text", chat(content="a") + DONE, ["a", RETRY]),
    ("responses", "[DONE] alone after text", says("output_text.delta", delta="a") + DONE, ["a", RETRY]),
    ("anthropic", "[DONE] alone after text", text_block(0, "a") + DONE, ["a", RETRY]),
    ("gemini", "[DONE] alone after text", candidate({"text": "a"}) + DONE, ["a", RETRY]),
    (
        "responses",
        "completed, whose response says incomplete: the limit",
        says("output_text.delta", delta="a")
        + says("completed", response={"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}),
        ["a", "length"],
    ),
    (
        "responses",
        "completed, whose response says incomplete: the filter",
        says("output_text.delta", delta="a")
        + says("completed", response={"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}),
        ["a", "content_filter"],
    ),
    (
        "responses",
        "incomplete for no known reason",
        says("output_text.delta", delta="a") + says("incomplete", response={"status": "incomplete"}),
        ["a", RETRY],
    ),
    (
        "responses",
        "completed, whose response says failed",
        says("output_text.delta", delta="a") + says("completed", response={"status": "failed", "error": None}),
        ["a", RETRY],
    ),
    (
        "responses",
        "no deltas at all",
        response("completed", output=[{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]),
        ["Hi", "stop"],
    ),
    ("gemini", "STOP with nothing", candidate(finish="STOP"), [RETRY]),
    ("anthropic", "end_turn with nothing", stopped("end_turn") + STOP, [RETRY]),
    ("anthropic", "a stop sequence and nothing before it", stopped("stop_sequence") + STOP, ["stop"]),
    ("responses", "completed with nothing", response("completed"), [RETRY]),
    ("chat_completions", "stop with nothing but thoughts", chat(reasoning="hm") + chat("stop"), ["<hm>", RETRY]),
    # Two parts of one answer do not run together
    (
        "responses",
        "a second message",
        says("output_text.delta", output_index=0, content_index=0, delta="First.")
        + says("output_text.delta", output_index=0, content_index=0, delta=" More.")
        + says("output_text.delta", output_index=1, content_index=0, delta="Then.")
        + response("completed"),
        ["First.", " More.", "|Then.", "stop"],
    ),
    (
        "anthropic",
        "a second text",
        text_block(0, "First.") + text_block(1, "Then.") + stopped("end_turn") + STOP,
        [
            "First.",
            "|Then.",
            "stop",
        ],
    ),
    (
        "anthropic",
        "a sentence that cites",
        text_block(0, "It says ")
        + block(1, "text", {"type": "text_delta", "text": "so"}, {"type": "citations_delta", "citation": {}}, text="")
        + text_block(2, ".")
        + stopped("end_turn")
        + STOP,
        ["It says ", "|so", ".", "stop"],
    ),
    (
        "chat_completions",
        "text after a call",
        chat(content="So:") + call("{}", "f") + chat(content="Done.") + chat("stop"),
        [
            "So:",
            "|Done.",
            ("f", {}),
            "tool_calls",
        ],
    ),
    (
        "gemini",
        "text after a call",
        candidate({"text": "So:"}, {"functionCall": {"name": "f"}}, {"text": "Done."}, finish="STOP"),
        ["So:", "|Done.", ("f", {}), "tool_calls"],
    ),
]


def understood(dialect: str, wire: bytes) -> list[Any]:
    """`<…>` is thinking; `|…` is text that begins an item."""
    parser = PARSERS[dialect]("m")
    found: list[Any] = []
    try:
        for pieces in (parser.feed(wire), parser.end()):
            for piece in pieces:
                if isinstance(piece, Delta):
                    found.append("|" * piece.begins_item + piece.text)
                elif isinstance(piece, Thinking):
                    found.append(f"<{piece.text}>")
                elif isinstance(piece, ToolUse):
                    found.append((piece.name, piece.arguments))
                elif isinstance(piece, Finish):
                    found.append(piece.reason)
                else:
                    assert isinstance(piece, ToolInput)
    except ProviderError as error:
        found.append(RETRY if error.retryable else f"error, {error.blame}")
    return found


@pytest.mark.parametrize(("dialect", "name", "wire", "found"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_a_server_of_its_own_kind_is_understood(dialect: str, name: str, wire: bytes, found: list[Any]) -> None:
    assert understood(dialect, wire) == found


every_dialect: Final = pytest.mark.parametrize("dialect", DIALECTS)
TAILS: Final = {
    "usage that is none": {
        "chat_completions": data({"choices": [], "usage": "n/a"}),
        "responses": b"",  # its usage is in the event that ends it
        "anthropic": data({"type": "message_delta", "delta": {}, "usage": "n/a"}),
        "gemini": data({"usageMetadata": "n/a"}),
    },
    "no JSON": dict.fromkeys(DIALECTS, data(b"<html>")),
    "[DONE] with a space": dict.fromkeys(DIALECTS, b"data: [DONE] \n\n"),
    "a last line without its blank one": dict.fromkeys(DIALECTS, b"data: [DONE]"),
    "half an event": dict.fromkeys(DIALECTS, b'data: {"usa'),
}


@every_dialect
@pytest.mark.parametrize("tail", TAILS)
def test_what_cannot_be_read_after_the_finish_costs_the_usage(dialect: str, tail: str) -> None:
    wire = writes(dialect, "Hi").removesuffix(STOP)
    if dialect == "anthropic":
        wire += stopped("end_turn")
    assert understood(dialect, wire + TAILS[tail][dialect]) == ["Hi", "stop"]


@every_dialect
@pytest.mark.parametrize("usage", ["n/a", None, [], {"input_tokens": "n/a", "prompt_tokens": "n/a"}, 3])
def test_usage_that_cannot_be_read_is_unknown(dialect: str, usage: Any) -> None:
    wire = {
        "chat_completions": chat(content="Hi") + data({"choices": [{"finish_reason": "stop"}], "usage": usage}),
        "responses": says("output_text.delta", delta="Hi") + response("completed", usage=usage),
        "anthropic": text_block(0, "Hi")
        + stopped("end_turn").replace(b'"usage": {}', b'"usage": ' + json.dumps(usage).encode())
        + STOP,
        "gemini": data(
            {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}], "usageMetadata": usage}
        ),
    }
    assert understood(dialect, wire[dialect]) == ["Hi", "stop"]


@every_dialect
def test_the_last_blank_line_may_be_missing(dialect: str) -> None:
    assert understood(dialect, writes(dialect, "Hi").rstrip(b"\n")) == ["Hi", "stop"]


NO_STREAMS: Final[list[tuple[str, bytes, str]]] = [
    ("an error as JSON", b'{"error": {"message": "no", "code": 429}}', "RATE_LIMIT"),
    ("an error in many lines", json.dumps({"error": {"message": "no", "code": 429}}, indent=2).encode(), "RATE_LIMIT"),
    ("an error that is bare", b'{"object": "error", "message": "no", "type": "x", "code": 429}', "RATE_LIMIT"),
    ("a page", b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>", "PROVIDER_ERROR"),
    ("an answer that is no stream", b'{"choices": []}', "PROVIDER_ERROR"),
    ("compressed without a word of it", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b", "PROVIDER_ERROR"),
]


@every_dialect
@pytest.mark.parametrize(("name", "body", "code"), NO_STREAMS, ids=[row[0] for row in NO_STREAMS])
def test_a_200_that_is_no_stream_is_the_error_it_is(dialect: str, name: str, body: bytes, code: str) -> None:
    parser = PARSERS[dialect]("m")
    with pytest.raises(ProviderError) as raised:
        list(itertools.chain(parser.feed(body), parser.end()))
    assert (raised.value.code, raised.value.retryable) == (code, True)
    if "compressed" in name:
        assert "compressed" in raised.value.message


USAGES: Final[list[tuple[str, str, Any, tuple[int | None, ...]]]] = [
    (
        "chat_completions",
        "OpenAI",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        (10, 5, 4, 3, 2),
    ),
    (
        "chat_completions",
        "DeepSeek",
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4},
        (
            10,
            5,
            4,
            None,
            None,
        ),
    ),
    (
        "chat_completions",
        "Kimi",
        {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4},
        (10, 5, 4, None, None),
    ),
    (
        "responses",
        "OpenAI",
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        (10, 5, 4, 3, 2),
    ),
    (
        "anthropic",
        "Anthropic",
        {
            "input_tokens": 3,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 3,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
        (10, 5, 4, 3, 2),
    ),
    (
        "gemini",
        "Google",
        {
            "promptTokenCount": 10,
            "cachedContentTokenCount": 4,
            "candidatesTokenCount": 3,
            "thoughtsTokenCount": 2,
        },
        (10, 5, 4, None, 2),
    ),
]


@pytest.mark.parametrize(("dialect", "provider", "usage", "found"), USAGES, ids=[row[1] for row in USAGES])
def test_tokens_are_counted_the_same_for_every_provider(
    dialect: str, provider: str, usage: Any, found: tuple[int | None, ...]
) -> None:
    wire = {
        "chat_completions": chat("stop", content="Hi") + data({"choices": [], "usage": usage}) + DONE,
        "responses": says("output_text.delta", delta="Hi") + response("completed", usage=usage),
        "anthropic": text_block(0, "Hi") + stopped("end_turn", **usage) + STOP,
        "gemini": candidate({"text": "Hi"}, finish="STOP") + data({"usageMetadata": usage}),
    }
    parser = PARSERS[dialect]("m")
    finish = [*parser.feed(wire[dialect]), *parser.end()][-1]
    assert isinstance(finish, Finish)
    used = finish.usage
    assert (
        used.input_tokens, used.output_tokens, used.cached_input_tokens, used.cache_write_tokens, used.reasoning_tokens,
    ) == found  # fmt: skip


def test_a_compressed_stream_is_decoded_as_it_comes() -> None:
    """Each event is flushed; the second is held back until the first has been read."""
    press = zlib.compressobj(wbits=31)

    def packed(wire: bytes) -> bytes:
        return chunked(press.compress(wire) + press.flush(zlib.Z_SYNC_FLUSH))

    async def run() -> list[str]:
        is_read = asyncio.Event()

        async def script(_: Reader, writer: Writer) -> None:
            head = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
            writer.write(head + packed(chat(content="Hel")))
            await is_read.wait()
            writer.write(packed(chat("stop", content="lo") + DONE) + END)

        texts: list[str] = []
        async with Upstream(script) as upstream, aiohttp.ClientSession() as session:
            async for piece in ours("chat_completions", upstream.root, session).stream(ModelRequest("m", [])):
                if isinstance(piece, Delta):
                    texts.append(piece.text)
                    is_read.set()
        return texts

    assert asyncio.run(asyncio.wait_for(run(), 20)) == ["Hel", "lo"]
