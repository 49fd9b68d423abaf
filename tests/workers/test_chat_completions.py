"""The chat-completions dialect: its parser as a table, its HTTP against a server that says exactly these bytes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked, hangs, says
from tokenrelay.workers.conversation import Delta, Finish, Message, ModelRequest, Piece, Progress, ToolSpec, ToolUse
from tokenrelay.workers.providers.base import Accepts, ProviderError
from tokenrelay.workers.providers.chat_completions import ChatCompletions, Parser, Timeouts
from tokenrelay.workers.providers.chat_completions_request import encode_request
from tokenrelay.workers.providers.faults import failure, parse_retry_after
from tokenrelay.workers.providers.jsontext import encode
from tokenrelay.workers.providers.optional_fields import OptionalFields

T = TypeVar("T")
MODEL = "m-1"


def data(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def delta(finish: str | None = None, /, **fields: Any) -> bytes:
    return data({"id": "c", "model": MODEL, "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


def call(index: int | None, arguments: str, call_id: str | None = None, name: str | None = None) -> bytes:
    fragment: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        fragment["index"] = index
    if call_id is not None:
        fragment |= {"id": call_id, "type": "function"}
    if name is not None:
        fragment["function"]["name"] = name
    return delta(tool_calls=[fragment])


def usage(prompt: int, completion: int) -> bytes:
    return data({"model": MODEL, "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


DONE = data(b"[DONE]")


def fin(reason: Any = "stop", asked: int = 0, written: int = 0, model: str = MODEL) -> Finish:
    return Finish(reason, asked, written, model)


def broken(code: str = "PROVIDER_ERROR", retryable: bool = True) -> tuple[str, bool]:
    return code, retryable


ROWS: list[tuple[str, bytes, list[Any]]] = [
    (
        "the reference's own example",
        delta(role="assistant", content="") + delta(content="Hel") + delta(content="lo") + delta("stop")
        + usage(9, 2) + DONE,
        [Delta("Hel"), Delta("lo"), fin("stop", 9, 2)],
    ),
    ("usage left out counts nothing", delta(content="a") + delta("stop") + DONE, [Delta("a"), fin()]),
    ("an end without [DONE]", delta(content="a") + delta("length") + usage(1, 1), [Delta("a"), fin("length", 1, 1)]),
    ("[DONE] without a finish reason", delta(content="a") + DONE, [Delta("a"), broken()]),
    ("[DONE] alone", DONE, [broken()]),
    ("a finish and nothing before it", delta("stop") + DONE, [broken()]),
    ("a finish at the limit and nothing before it", delta("length") + DONE, [fin("length")]),
    ("nothing after [DONE] counts", delta("stop", content="a") + DONE + delta(content="x"), [Delta("a"), fin()]),
    ("text after the finish is text", delta("stop") + delta(content="x") + DONE, [Delta("x"), fin()]),
    ("text beside the finish is text", delta("stop", content="x") + DONE, [Delta("x"), fin()]),
    ("an unknown finish reason", delta("eos", content="a") + DONE, [Delta("a"), fin()]),
    ("a filter", delta("content_filter") + DONE, [fin("content_filter")]),
    ("an empty finish reason is none yet", delta("", content="a") + delta("stop"), [Delta("a"), fin()]),
    ("running sums of usage", usage(5, 1) + delta("length") + usage(5, 2) + DONE, [fin("length", 5, 2)]),
    (
        "usage of null",
        delta("length") + data({"choices": None, "usage": {"prompt_tokens": None, "completion_tokens": 3}}),
        [fin("length", 0, 3)],
    ),
    ("no model named", data({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}), [
        Delta("a"), fin("stop", 0, 0, "asked-for"),
    ]),
    (
        "only the first of several answers",
        data({"choices": [{"index": 1, "delta": {"content": "no"}}]}) + delta("stop", content="a") + DONE,
        [Delta("a"), fin()],
    ),
    (
        "thinking is no token",
        delta(reasoning_content="hm") + delta(reasoning="hm") + delta(content="a", reasoning=None) + delta("stop"),
        [Delta("a"), fin()],
    ),
    (
        "a refusal is text, filtered",
        delta(refusal="I'm ") + delta(refusal="sorry") + delta("stop") + DONE,
        [Delta("I'm "), Delta("sorry"), fin("content_filter")],
    ),
    (
        "comments, unknown events and unknown fields",
        b": OPENROUTER PROCESSING\n\n" + b"event: ping\ndata: {}\n\n" + b"event: x\ndata: nonsense\n\n"
        + data({"type": "ping"}) + delta(content="a", annotations=[]) + delta("stop"),
        [Delta("a"), fin()],
    ),
    ("CRLF and a BOM", b"\xef\xbb\xbf" + (delta("stop", content="é") + DONE).replace(b"\n", b"\r\n"), [
        Delta("é"), fin(),
    ]),
    (
        "one tool call in fragments",
        call(0, "", "call_a", "calculator") + call(0, '{"expr') + call(0, 'ession": "6*7"}') + delta("tool_calls")
        + usage(3, 4) + DONE,
        [ToolUse("call_a", "calculator", {"expression": "6*7"}), fin("tool_calls", 3, 4)],
    ),
    (
        "parallel calls, fragments mixed, after text",
        delta(content="Let me see. ") + call(0, '{"a":', "c0", "f") + call(1, "", "c1", "g") + call(0, "1}")
        + call(1, "{}") + delta("tool_calls") + DONE,
        [Delta("Let me see. "), ToolUse("c0", "f", {"a": 1}), ToolUse("c1", "g", {}), fin("tool_calls")],
    ),
    (
        "no index: told apart by id",
        call(None, '{"a":', "c0", "f") + call(None, "1}") + call(None, "{}", "c1", "g") + delta("stop"),
        [ToolUse("c0", "f", {"a": 1}), ToolUse("c1", "g", {}), fin("tool_calls")],
    ),
    (
        "index 0 for every call: told apart by id",
        call(0, "{}", "c0", "f") + call(0, '{"b":', "c1", "g") + call(0, "2}", "c1") + delta("tool_calls"),
        [ToolUse("c0", "f", {}), ToolUse("c1", "g", {"b": 2}), fin("tool_calls")],
    ),
    ("no id, no arguments", call(0, "", None, "now") + delta("tool_calls"), [
        ToolUse("call_0", "now", {}), fin("tool_calls"),
    ]),
    (
        "the older function_call",
        delta(function_call={"name": "f", "arguments": ""}) + delta(function_call={"arguments": '{"a":1}'})
        + delta("function_call"),
        [ToolUse("call_0", "f", {"a": 1}), fin("tool_calls")],
    ),
    ("a tool call that was cut is none", call(0, '{"a":', "c", "f") + delta("length"), [fin("length")]),
    ("arguments that are no object", call(0, "[1]", "c", "f") + delta("tool_calls"), [broken()]),
    ("arguments that are no JSON", call(0, "{", "c", "f") + delta("tool_calls"), [broken()]),
    ("a number that no wire holds", call(0, '{"a": NaN}', "c", "f") + delta("tool_calls"), [broken()]),
    ("a call of nothing", call(0, "{}", "c") + delta("tool_calls"), [broken()]),
    (
        "arguments with half a pair, and a number too large",
        call(0, '{"a": "x\\ud83dy", "n": 99999999999999999999}', "c", "f") + delta("tool_calls"),
        [ToolUse("c", "f", {"a": "x\ufffdy", "n": 1e20}), fin("tool_calls")],
    ),
    ("half a pair", delta(content="a\ud83d b") + delta("stop"), [Delta("a\ufffd b"), fin()]),
    ("the other half", delta(content="a\ude00b") + delta("stop"), [Delta("a\ufffdb"), fin()]),
    (
        "a pair cut in two deltas",
        delta(content="a\ud83d") + delta(content="\ude00b") + delta("stop"),
        [Delta("a"), Delta("😀b"), fin()],
    ),
    ("half a pair at the end", delta(content="a\ud83d") + delta("stop"), [Delta("a"), Delta("\ufffd"), fin()]),
    ("half a pair alone, then [DONE]", delta("stop", content="\ud83d") + DONE, [Delta("\ufffd"), fin()]),
    ("cut before anything", b"", [broken()]),
    ("cut in the middle", delta(content="a") + b'data: {"choi', [Delta("a"), broken()]),
    ("not JSON", delta(content="a") + data(b"<html>"), [Delta("a"), broken()]),
    ("JSON of another shape", data(b'{"choices": 3}'), [broken()]),
    ("an error in mid-stream", delta(content="a") + data({"error": {"message": "secret", "type": "server_error"}}), [
        Delta("a"), broken(),
    ]),
    ("an error that is a string", data({"error": "secret"}), [broken()]),
    ("an error by event name", b"event: error\n" + data({"message": "secret"}), [broken()]),
    ("an error with a status", data({"error": {"code": 429, "message": "secret"}}), [broken("RATE_LIMIT")]),
    ("an error that stays", data({"error": {"code": 400, "message": "secret"}}), [broken(retryable=False)]),
    ("an error in a word", data({"error": {"code": "rate_limit_exceeded"}}), [broken("RATE_LIMIT")]),
    (
        "too long for the model",
        data({"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}}),
        [broken(retryable=False)],
    ),
    ("an event without end", b"data: " + b"x" * (1024 * 1024 + 1), [broken(retryable=False)]),
]  # fmt: skip
IDS = [name for name, _, _ in ROWS]


def told(error: ProviderError) -> tuple[str, bool]:
    """What a client learns; never the provider's own words, nor where it lives."""
    assert not {"secret", "127.0.0.1"} & set(error.message.replace(":", " ").split())
    return error.code, error.retryable


def said(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """What an answer consists of, without the signs of life on the way."""
    return (piece for piece in pieces if isinstance(piece, (Delta, ToolUse, Finish)))


def parse(chunks: list[bytes]) -> list[Any]:
    """What comes out; a failure as (code, retryable), last."""
    parser = Parser("asked-for")
    pieces: list[Any] = []
    try:
        for chunk in chunks:
            pieces.extend(said(parser.feed(chunk)))
        pieces.extend(said(parser.end()))
    except ProviderError as error:
        pieces.append(told(error))
    return pieces


@pytest.mark.parametrize(("name", "wire", "pieces"), ROWS, ids=IDS)
def test_an_answer_is_read(name: str, wire: bytes, pieces: list[Any]) -> None:
    parser = Parser("asked-for")
    found: list[Any] = []
    try:
        for piece in said(parser.feed(wire)):
            found.append(piece)  # noqa: PERF402 - what came before a failure counts
        found.extend(said(parser.end()))
    except ProviderError as error:
        found.append(told(error))
    assert found == pieces


@pytest.mark.parametrize(("name", "wire", "pieces"), [row for row in ROWS if len(row[1]) < 10_000])
def test_byte_by_byte_it_reads_the_same(name: str, wire: bytes, pieces: list[Any]) -> None:
    assert parse([wire[at : at + 1] for at in range(len(wire))]) == pieces


@settings(deadline=None)  # a busy machine is no fault of the parser
@given(st.data())
def test_any_split_reads_the_same(given_data: st.DataObject) -> None:
    _, wire, pieces = given_data.draw(st.sampled_from([row for row in ROWS if len(row[1]) < 10_000]))
    cuts = sorted(given_data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    bounds = [0, *cuts, len(wire)]
    assert parse([wire[a:b] for a, b in itertools.pairwise(bounds)]) == pieces


@settings(deadline=None)  # a busy machine is no fault of the parser
@given(st.lists(st.text(st.characters(codec=None)), max_size=6), st.integers(1, 9))
def test_any_text_comes_out_as_unicode(texts: list[str], step: int) -> None:
    wire = b"".join(delta(content=text) for text in texts) + delta("stop") + DONE
    pieces = parse([wire[at : at + step] for at in range(0, len(wire), step)])
    joined = "".join(piece.text for piece in pieces[:-1])
    assert joined == "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# -- requests --------------------------------------------------------------------------------------------------------


def asked(request: ModelRequest, accepts: Accepts | None = None) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(encode(encode_request(request, accepts or Accepts(), OptionalFields())))
    return body


def test_a_bare_request_leaves_the_rest_to_the_model() -> None:
    assert asked(ModelRequest("m", [Message("user", "hi")])) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_full_request_is_the_references_shape() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    use = ToolUse("c1", "f", {"a": 1})
    request = ModelRequest(
        "m",
        [Message("assistant", "", tool_calls=(use,)), Message("tool", "42", tool_call_id="c1")],
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        stop=("\n",),
        seed=0,
        tools=[ToolSpec("f", "adds", schema)],
    )
    body = asked(request, Accepts(token_limit_field="max_completion_tokens"))
    arguments = body["messages"][0]["tool_calls"][0]["function"].pop("arguments")
    assert json.loads(arguments) == {"a": 1}
    assert body["messages"] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body
    assert (body["temperature"], body["top_p"], body["stop"], body["seed"]) == (0.0, 0.5, ["\n"], 0)
    function = {"name": "f", "description": "adds", "parameters": schema}
    assert body["tools"] == [{"type": "function", "function": function}]


def test_half_a_pair_in_a_request_is_replaced() -> None:
    body = asked(ModelRequest("m", [Message("user", "a\ud83db")]))
    assert body["messages"][0]["content"] == "a\ufffdb"


# -- statuses --------------------------------------------------------------------------------------------------------

TOO_LONG = b'{"error":{"message":"secret","type":"invalid_request_error","code":"context_length_exceeded"}}'
STATUSES: list[tuple[int, bytes, str, bool]] = [
    (400, b'{"error":{"message":"secret"}}', "PROVIDER_ERROR", False),
    (400, TOO_LONG, "PROVIDER_ERROR", False),
    (401, b"secret", "PROVIDER_ERROR", False),
    (403, b"", "PROVIDER_ERROR", False),
    (404, b"<html>secret", "PROVIDER_ERROR", False),
    (422, b'{"detail":[]}', "PROVIDER_ERROR", False),
    (429, b"", "RATE_LIMIT", True),
    (500, b'{"error":{"type":"invalid_request_error"}}', "PROVIDER_ERROR", True),
    (502, b"", "PROVIDER_ERROR", True),
    (503, b"", "PROVIDER_ERROR", True),
    (529, b"", "OVERLOADED", True),
    (307, b"", "PROVIDER_ERROR", False),
]


@pytest.mark.parametrize(("status", "body", "code", "retryable"), STATUSES)
def test_a_status_says_whose_fault_it_is(status: int, body: bytes, code: str, retryable: bool) -> None:
    error = failure(status, body)
    assert (error.code, error.retryable) == (code, retryable)
    assert "secret" not in error.message


def test_a_conversation_that_is_too_long_is_called_so() -> None:
    assert "longer than the model's context" in failure(400, TOO_LONG).message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("9e9", 86_400.0),
        ("Thu, 01 Jan 1970 00:01:10 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now_s=10.0) == seconds


# -- a real server, byte for byte ------------------------------------------------------------------------------------


def with_upstream(
    script: Script, use: Callable[[ChatCompletions, Upstream], Awaitable[T]], timeouts: Timeouts | None = None
) -> T:
    async def run() -> T:
        async with Upstream(script) as upstream, aiohttp.ClientSession() as session:
            provider = ChatCompletions(
                name="Acme", base_url=upstream.base_url, session=session, api_key="k-1", timeouts=timeouts
            )
            async with asyncio.timeout(20):
                return await use(provider, upstream)

    return asyncio.run(run())


async def collect(provider: ChatCompletions, _: Upstream | None = None) -> tuple[list[Piece], ProviderError | None]:
    pieces: list[Piece] = []
    try:
        async for piece in provider.stream(ModelRequest("asked-for", [Message("user", "hi")])):
            pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
    except ProviderError as error:
        told(error)
        return pieces, error
    return pieces, None


def test_an_answer_arrives_over_http() -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        pieces, error = await collect(provider)
        assert (pieces, error) == ([Delta("Hel"), Delta("lo"), fin("stop", 9, 2)], None)
        line, headers, body = upstream.requests[0]
        assert line == "POST /v1/chat/completions HTTP/1.1"
        assert headers["authorization"] == "Bearer k-1"
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["stream_options"] == {"include_usage": True}

    wire = ROWS[0][1]
    with_upstream(says(HEAD, chunked(wire[:100]), chunked(wire[100:]), END), use)


def test_a_connection_is_used_again() -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        for _ in range(3):
            assert (await collect(provider))[1] is None
        assert (len(upstream.requests), upstream.connections) == (3, 1)

    with_upstream(says(HEAD, chunked(ROWS[0][1]), END), use)


def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    played = itertools.count(1)

    async def script(_: Reader, writer: Writer) -> None:
        if next(played) != 2:  # the second request meets a connection that is closed without a word
            writer.write(HEAD + chunked(ROWS[0][1]) + END)
        else:
            writer.close()

    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        for _ in range(2):
            pieces, error = await collect(provider)
            assert (len(pieces), error) == (3, None)
        assert upstream.connections == 2

    with_upstream(script, use)


@pytest.mark.parametrize(("status", "body", "code", "retryable"), STATUSES)
def test_a_refusal_over_http(status: int, body: bytes, code: str, retryable: bool) -> None:
    head = b"HTTP/1.1 %d No\r\nRetry-After: 7\r\nLocation: /elsewhere\r\nContent-Length: %d\r\n\r\n"
    pieces, error = with_upstream(says(head % (status, len(body)), body), collect)
    assert pieces == []
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    if status == 429:
        assert error.retry_after_s == 7.0


def test_nobody_listens() -> None:
    async def run() -> ProviderError | None:
        async with Upstream(says()) as upstream:
            url = upstream.base_url
        async with aiohttp.ClientSession() as session:
            return (await collect(ChatCompletions(name="Acme", base_url=url, session=session)))[1]

    error = asyncio.run(run())
    assert error is not None
    assert (error.code, error.retryable) == ("PROVIDER_ERROR", True)


CUT = HEAD + chunked(delta(content="a"))


@pytest.mark.parametrize(
    ("name", "wire", "texts", "is_whole"),
    [
        ("before the head", b"", [], False),
        ("in the head", HEAD[:30], [], False),
        ("after a token", CUT, ["a"], False),
        ("in a frame", CUT + chunked(b'data: {"cho'), ["a"], False),
        ("in order, but with no finish", CUT + END, ["a"], False),
        ("after the finish", CUT + chunked(delta("stop")), ["a"], True),
    ],
)
def test_a_cut_connection(name: str, wire: bytes, texts: list[str], is_whole: bool) -> None:
    pieces, error = with_upstream(says(wire, close=True), collect)
    assert [piece.text for piece in pieces if isinstance(piece, Delta)] == texts
    if is_whole:
        assert (pieces[-1], error) == (fin(), None)
    else:
        assert error is not None
        assert (error.code, error.retryable) == ("PROVIDER_ERROR", True)


TINY_FIRST = Timeouts(first_token_s=0.02)
TINY_BETWEEN = Timeouts(between_tokens_s=0.02)
KEEP_ALIVE = chunked(b": still here\n\n")


@pytest.mark.parametrize(
    ("name", "wire", "timeouts", "message"),
    [
        ("no head", b"", TINY_FIRST, "did not begin"),
        ("a head and no token", HEAD, TINY_FIRST, "did not begin"),
        ("keep-alives and no token", HEAD + KEEP_ALIVE, TINY_FIRST, "did not begin"),
        ("an opening without text", HEAD + chunked(delta(role="assistant", content="")), TINY_FIRST, "did not begin"),
        ("a token and silence", CUT, TINY_BETWEEN, "fell silent"),
        ("a token and keep-alives", CUT + KEEP_ALIVE, TINY_BETWEEN, "fell silent"),
    ],
)
def test_a_model_that_takes_too_long(name: str, wire: bytes, timeouts: Timeouts, message: str) -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        _, error = await collect(provider)
        assert error is not None
        assert (error.code, error.retryable) == ("TIMEOUT", True)
        assert message in error.message
        await upstream.gone.wait()

    with_upstream(hangs(wire), use, timeouts)


def test_keep_alives_are_signs_of_life() -> None:
    async def script(_: Reader, writer: Writer) -> None:
        writer.write(CUT)
        for _number in range(10):
            await asyncio.sleep(0.02)
            writer.write(KEEP_ALIVE)
            await writer.drain()
        writer.write(chunked(delta("stop", content="b")) + END)

    pieces, error = with_upstream(script, collect, Timeouts(between_tokens_s=0.1))
    assert error is None
    assert [piece.text for piece in pieces if isinstance(piece, Delta)] == ["a", "b"]
    assert sum(isinstance(piece, Progress) for piece in pieces) >= 9


def test_a_connection_that_cannot_be_made_in_time() -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        busy = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
        slow = ChatCompletions(name="Acme", base_url=upstream.base_url, session=busy, timeouts=Timeouts(connect_s=0.02))
        patient = ChatCompletions(name="Acme", base_url=upstream.base_url, session=busy)
        holds = patient.stream(ModelRequest("m", []))
        await anext(holds)
        _, error = await collect(slow)
        assert error is not None
        assert (error.code, error.retryable) == ("TIMEOUT", True)
        assert "reached in time" in error.message
        await aclose(holds)
        await busy.close()

    with_upstream(hangs(CUT), use)


async def aclose(pieces: AsyncIterator[Piece]) -> None:
    await pieces.aclose()  # type: ignore[attr-defined]


def test_closing_the_iterator_closes_the_call() -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        pieces = provider.stream(ModelRequest("m", []))
        assert await anext(pieces) == Delta("a")
        await aclose(pieces)
        await upstream.gone.wait()

    with_upstream(hangs(CUT), use)


@pytest.mark.parametrize("wire", [b"", HEAD, CUT])
def test_cancelling_the_reader_closes_the_call(wire: bytes) -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        async def read() -> None:
            async for _ in provider.stream(ModelRequest("m", [])):
                pass

        async def watch() -> None:
            while not upstream.requests:
                await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        await watch()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await upstream.gone.wait()

    with_upstream(hangs(wire), use)


def test_a_base_url_may_have_to_be_waited_for() -> None:
    async def use(provider: ChatCompletions, upstream: Upstream) -> None:
        async def base_url() -> str:
            return upstream.base_url + "/"

        async with aiohttp.ClientSession() as session:
            lazy = ChatCompletions(name="Acme", base_url=base_url, session=session)
            assert (await collect(lazy))[1] is None
        assert upstream.requests[0][0] == "POST /v1/chat/completions HTTP/1.1"
        assert "authorization" not in upstream.requests[0][1]

    with_upstream(says(HEAD, chunked(ROWS[0][1]), END), use)
