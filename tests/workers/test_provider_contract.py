"""What a generation may rely on, whoever is asked: one suite over every provider that is asked over HTTP, and the
scripted one where it has the same duty."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import pytest
import structlog.testing

from tests.workers.oracle.cases import CASES, DIALECTS, Case
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked, hangs, says
from tokenrelay.protocol.errors import TABLE
from tokenrelay.workers.conversation import Delta, Finish, Message, ModelRequest, Piece, ToolSpec, ToolUse
from tokenrelay.workers.providers.anthropic import Anthropic
from tokenrelay.workers.providers.base import Accepts, Provider, ProviderError, fitted, left_out
from tokenrelay.workers.providers.chat_completions import ChatCompletions
from tokenrelay.workers.providers.gemini import Gemini
from tokenrelay.workers.providers.responses import Responses
from tokenrelay.workers.providers.scripted import Scripted
from tokenrelay.workers.providers.upstream import Timeouts
from tokenrelay.workers.providers.upstream import Upstream as Http

T = TypeVar("T")
KEY: Final = "sk-very-secret"
HI: Final = ModelRequest("asked-for", [Message("user", "hi")])

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def provider_of(dialect: str, root: str, session: aiohttp.ClientSession, timeouts: Timeouts | None = None) -> Http:
    if dialect == "anthropic":
        return Anthropic(api_key=KEY, base_url=root, session=session, timeouts=timeouts)
    if dialect == "gemini":
        return Gemini(api_key=KEY, base_url=root + "/", session=session, timeouts=timeouts)
    if dialect == "responses":
        return Responses(api_key=KEY, base_url=f"{root}/v1", session=session, timeouts=timeouts)
    return ChatCompletions(
        name="Acme", api_key=KEY, base_url=f"{root}/v1/", session=session, timeouts=timeouts, accepts=Accepts()
    )


def case_of(dialect: str, name: str) -> Case:
    return next(case for case in CASES if (case.dialect, case.name) == (dialect, name))


def answer(dialect: str, name: str) -> Script:
    return says(HEAD, chunked(case_of(dialect, name).body), END)


def begun(dialect: str) -> bytes:
    """An answer that has written two words and does not go on."""
    return HEAD + chunked(case_of(dialect, "cut").body)


def with_upstream(
    dialect: str,
    script: Script,
    use: Callable[[Http, Upstream], Awaitable[T]],
    timeouts: Timeouts | None = None,
) -> T:
    async def run() -> T:
        async with Upstream(script) as upstream, aiohttp.ClientSession() as session:
            async with asyncio.timeout(20):
                return await use(provider_of(dialect, upstream.root, session, timeouts), upstream)

    return asyncio.run(run())


async def collect(provider: Provider, request: ModelRequest = HI) -> tuple[list[Piece], ProviderError | None]:
    pieces: list[Piece] = []
    try:
        async for piece in provider.stream(request):
            pieces.append(piece)  # noqa: PERF401 - what came before a failure counts
    except ProviderError as error:
        check(error)
        return pieces, error
    return pieces, None


def check(error: ProviderError) -> None:
    """A client is told a row of the table, and never the provider's own words, nor where it lives."""
    assert error.code in TABLE
    assert not {"secret", KEY, "127.0.0.1"} & set(error.message.replace(":", " ").split())


async def ask(provider: Http, _: Upstream) -> tuple[list[Piece], ProviderError | None]:
    return await collect(provider)


async def fails(provider: Http, upstream: Upstream) -> ProviderError:
    pieces, error = await collect(provider)
    assert error is not None, pieces
    return error


async def close(pieces: AsyncIterator[Piece]) -> None:
    await pieces.aclose()  # type: ignore[attr-defined]


# -- the same story, the same pieces -----------------------------------------------------------------------------------

CALLS: Final = [
    ("weather", {"city": "Zürich"}),
    ("weather", {"city": "東京", "days": [1, 2.5, None, True]}),
    ("now", {}),
]
STORIES: Final[list[tuple[str, list[Any]]]] = [
    ("text", ["Hel", "lo", "!", ("stop", 9, 3)]),
    ("empty_deltas", ["a", "b", ("stop", 1, 2)]),
    ("one_tool_call", [("calculator", {"expression": "6*7"}), ("tool_calls", 51, 17)]),
    ("parallel_tool_calls", ["Two at once.", *CALLS, ("tool_calls", 80, 44)]),
    ("length", ["Once upon a", ("length", 5, 3)]),
    ("thinking", ["42", ("stop", 7, 130)]),
    ("ended_without_finish", ["PROVIDER_ERROR"]),
]


def told(pieces: list[Piece], error: ProviderError | None) -> list[Any]:
    story: list[Any] = []
    for piece in pieces:
        if isinstance(piece, Delta):
            story.append(piece.text)
        elif isinstance(piece, ToolUse):
            story.append((piece.name, piece.arguments))
        elif isinstance(piece, Finish):
            story.append((piece.reason, piece.input_tokens, piece.output_tokens))
    return [*story, error.code] if error is not None else story


@every_dialect
@pytest.mark.parametrize(("name", "story"), STORIES, ids=[name for name, _ in STORIES])
def test_the_same_story_is_told_in_the_same_pieces(dialect: str, name: str, story: list[Any]) -> None:
    found = told(*with_upstream(dialect, answer(dialect, name), ask))
    assert found == story if name != "ended_without_finish" else found[-1:] == story


FAILS_IN_MID_STREAM: Final = {
    "chat_completions": "PROVIDER_ERROR",  # server_error
    "responses": "PROVIDER_ERROR",  # server_error
    "anthropic": "OVERLOADED",  # overloaded_error
    "gemini": "OVERLOADED",  # 503 UNAVAILABLE
}


@every_dialect
def test_an_error_in_mid_stream_is_told_by_what_the_provider_says(dialect: str) -> None:
    found = told(*with_upstream(dialect, answer(dialect, "error_in_mid_stream"), ask))
    assert found == ["Hel", FAILS_IN_MID_STREAM[dialect]]


@every_dialect
def test_every_call_has_an_id_of_its_own(dialect: str) -> None:
    pieces, _ = with_upstream(dialect, answer(dialect, "parallel_tool_calls"), ask)
    ids = [piece.call_id for piece in pieces if isinstance(piece, ToolUse)]
    assert len({*ids, ""}) == 4


def test_an_id_made_up_here_is_not_made_up_twice() -> None:
    async def use(provider: Http, _: Upstream) -> None:
        pieces, _error = await collect(provider)
        first = next(piece for piece in pieces if isinstance(piece, ToolUse))
        turns = [*HI.messages, Message("assistant", "", (first,)), Message("tool", "noon", tool_call_id=first.call_id)]
        pieces, _error = await collect(provider, msgspec.structs.replace(HI, messages=turns))
        second = next(piece for piece in pieces if isinstance(piece, ToolUse))
        assert first.call_id != second.call_id

    with_upstream("gemini", answer("gemini", "tool_call_without_id"), use)


@pytest.mark.parametrize("name", ["scripted?tokens=3", "scripted?tokens=3&tool_after=1"])
def test_the_scripted_model_ends_by_one_finish_as_well(name: str) -> None:
    pieces, error = asyncio.run(collect(Scripted(), ModelRequest(name, HI.messages)))
    assert error is None
    assert [isinstance(piece, Finish) for piece in pieces].index(True) == len(pieces) - 1


@every_dialect
def test_a_connection_is_used_again(dialect: str) -> None:
    async def use(provider: Http, upstream: Upstream) -> None:
        for _ in range(3):
            assert (await collect(provider))[1] is None
        assert (len(upstream.requests), upstream.connections) == (3, 1)

    with_upstream(dialect, answer(dialect, "text"), use)


@every_dialect
def test_closing_a_provider_twice_leaves_the_shared_session_open(dialect: str) -> None:
    async def use(provider: Http, _: Upstream) -> None:
        await provider.aclose()
        await provider.aclose()
        assert (await collect(provider))[1] is None

    with_upstream(dialect, answer(dialect, "text"), use)


# -- what goes back to the provider ------------------------------------------------------------------------------------

ECHOES: Final = [
    ("responses", "thinking_then_tool_call", "gAAAAB"),
    ("anthropic", "thinking_then_tool_call", "EqQ="),
    ("anthropic", "thinking_then_tool_call", "Emw="),
    ("gemini", "one_tool_call", "c2ln"),
]


@pytest.mark.parametrize(("dialect", "name", "sealed"), ECHOES)
def test_sealed_thoughts_go_back_with_the_result_and_to_nobody_else(dialect: str, name: str, sealed: str) -> None:
    async def use(provider: Http, upstream: Upstream) -> ModelRequest:
        pieces, _ = await collect(provider)
        uses = tuple(piece for piece in pieces if isinstance(piece, ToolUse))
        results = [Message("tool", "noon", tool_call_id=use.call_id) for use in uses]
        echo = next(piece.echo for piece in pieces if isinstance(piece, Finish))
        assert echo is not None
        assert (echo.source, echo.upstream) == (dialect, HI.model)
        turn = Message("assistant", "", uses, echo=echo)
        request = msgspec.structs.replace(HI, messages=[*HI.messages, turn, *results])
        await collect(provider, request)
        assert sealed in upstream.requests[1][2].decode()
        return request

    request = with_upstream(dialect, answer(dialect, name), use)

    async def other(provider: Http, upstream: Upstream) -> None:
        await collect(provider, request)
        assert sealed not in upstream.requests[0][2].decode()

    for stranger in set(DIALECTS) - {dialect}:
        with_upstream(stranger, answer(stranger, "text"), other)


@every_dialect
def test_a_tools_name_is_made_fit_for_the_provider_and_comes_back_as_it_was(dialect: str) -> None:
    body = case_of(dialect, "one_tool_call").body.replace(b'"calculator"', b'"my_server_sum"')
    tools = [
        ToolSpec("my.server.sum", "adds", {"type": "object"}),
        ToolSpec("my_server.sum", "adds", {"type": "object"}),
    ]

    async def use(provider: Http, upstream: Upstream) -> None:
        pieces, _ = await collect(provider, msgspec.structs.replace(HI, tools=tools))
        assert [piece.name for piece in pieces if isinstance(piece, ToolUse)] == ["my.server.sum"]
        sent = upstream.requests[0][2].decode()
        assert ("my.server" in sent, '"my_server_sum"' in sent, '"my_server_sum_2"' in sent) == (False, True, True)

    with_upstream(dialect, says(HEAD, chunked(body), END), use)


FULL: Final = ModelRequest("m", [], 1, 0.0, 0.0, ("x",), 0, [ToolSpec("f", "", {})])
LEFT_OUT: Final = {
    "chat_completions": (),
    "responses": ("stop", "seed"),
    "anthropic": ("temperature", "top_p", "seed"),
    "gemini": (),
}


@every_dialect
def test_what_is_left_out_can_be_told(dialect: str) -> None:
    async def use(provider: Http, _: Upstream) -> None:
        assert provider.left_out(FULL) == LEFT_OUT[dialect]
        assert provider.left_out(HI) == ()

    with_upstream(dialect, says(), use)


def test_what_is_left_out_is_a_matter_of_what_was_asked() -> None:
    nothing = Accepts(temperature=False, top_p=False, stop=False, seed=False, tools=False)
    assert left_out(FULL, nothing) == ("temperature", "top_p", "stop", "seed", "tools")
    assert left_out(fitted(FULL, nothing), nothing) == ()
    assert fitted(FULL, nothing).max_tokens == 1
    assert fitted(FULL, Accepts()) == FULL


def test_capabilities_may_differ_by_model() -> None:
    async def run() -> tuple[tuple[str, ...], ...]:
        async with aiohttp.ClientSession() as session:
            provider = Gemini(
                api_key=KEY, session=session, accepts=lambda model: Accepts(temperature=model.startswith("gemini-2"))
            )
            models = ("gemini-2.5-pro", "gemini-3.8-flash")
            return tuple(provider.left_out(msgspec.structs.replace(FULL, model=model)) for model in models)

    assert asyncio.run(run()) == ((), ("temperature",))


# -- refusals ----------------------------------------------------------------------------------------------------------


def google(status: str, **details: Any) -> bytes:
    fault = {"code": 0, "message": "secret", "status": status, "details": [details] if details else []}
    return json.dumps({"error": fault}).encode()


def fault(kind: str, message: str = "secret", **more: Any) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message} | more}).encode()


REFUSALS: Final[list[tuple[int, bytes, str, bool, str]]] = [
    (400, fault("invalid_request_error"), "PROVIDER_ERROR", False, "did not accept the request"),
    (400, fault("invalid_request_error", code="context_length_exceeded"), "PROVIDER_ERROR", False, "longer than"),
    (400, fault("invalid_request_error", "prompt is too long: 9 > 8"), "PROVIDER_ERROR", False, "longer than"),
    (400, google("INVALID_ARGUMENT"), "PROVIDER_ERROR", False, "did not accept the request"),
    (400, google("INVALID_ARGUMENT", reason="API_KEY_INVALID"), "PROVIDER_ERROR", False, "credentials"),
    (401, fault("authentication_error"), "PROVIDER_ERROR", False, "credentials"),
    (403, b"[" + google("PERMISSION_DENIED") + b"]", "PROVIDER_ERROR", False, "credentials"),
    (404, b"<html>secret", "PROVIDER_ERROR", False, "does not know this model"),
    (413, fault("request_too_large"), "PROVIDER_ERROR", False, "longer than"),
    (429, fault("rate_limit_error"), "RATE_LIMIT", True, "no more requests"),
    (500, fault("api_error"), "PROVIDER_ERROR", True, "failed to answer"),
    (503, google("UNAVAILABLE"), "PROVIDER_ERROR", True, "failed to answer"),
    (529, fault("overloaded_error"), "OVERLOADED", True, "overloaded"),
]


@every_dialect
@pytest.mark.parametrize(("status", "body", "code", "retryable", "message"), REFUSALS)
def test_a_refusal(dialect: str, status: int, body: bytes, code: str, retryable: bool, message: str) -> None:
    head = b"HTTP/1.1 %d No\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    error = with_upstream(dialect, says(head, body), fails)
    assert (error.code, error.retryable) == (code, retryable)
    assert message in error.message
    if retryable:
        assert error.retry_after_s == 7.0


def test_google_says_in_the_body_how_long_to_wait() -> None:
    body = google("RESOURCE_EXHAUSTED", retryDelay="17.5s")
    head = b"HTTP/1.1 429 No\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert with_upstream("gemini", says(head, body), fails).retry_after_s == 17.5


@every_dialect
def test_nobody_listens(dialect: str) -> None:
    async def use(provider: Http, upstream: Upstream) -> ProviderError:
        await upstream.__aexit__()
        return await fails(provider, upstream)

    error = with_upstream(dialect, says(), use)
    assert (error.code, error.retryable) == ("PROVIDER_ERROR", True)


@every_dialect
@pytest.mark.parametrize("where", ["before the head", "in the head", "after a token", "in order"])
def test_a_cut_connection(dialect: str, where: str) -> None:
    wire = {"before the head": b"", "in the head": HEAD[:30], "after a token": begun(dialect)}
    script = says(wire.get(where, begun(dialect) + END), close=True)
    pieces, error = with_upstream(dialect, script, ask)
    assert error is not None
    assert (error.code, error.retryable) == ("PROVIDER_ERROR", True)
    assert len(pieces) == (2 if where in ("after a token", "in order") else 0)


@every_dialect
def test_an_address_that_is_none(dialect: str) -> None:
    async def run() -> ProviderError | None:
        async with aiohttp.ClientSession() as session:
            return (await collect(provider_of(dialect, "not an address", session)))[1]

    error = asyncio.run(run())
    assert error is not None
    assert not error.retryable


# -- timeouts ----------------------------------------------------------------------------------------------------------

KEEP_ALIVE: Final = chunked(b": still here\n\n")
FIRST: Final = Timeouts(first_token_s=0.05)
BETWEEN: Final = Timeouts(between_tokens_s=0.02)


@every_dialect
@pytest.mark.parametrize(
    ("what", "timeouts", "message"),
    [
        ("nothing", FIRST, "did not begin"),
        ("a head", FIRST, "did not begin"),
        ("keep-alives", FIRST, "did not begin"),
        ("two words", BETWEEN, "fell silent"),
        ("two words and keep-alives", BETWEEN, "fell silent"),
    ],
)
def test_a_model_that_takes_too_long(dialect: str, what: str, timeouts: Timeouts, message: str) -> None:
    wire = {
        "nothing": b"",
        "a head": HEAD,
        "keep-alives": HEAD + KEEP_ALIVE,
        "two words": begun(dialect),
        "two words and keep-alives": begun(dialect) + KEEP_ALIVE,
    }

    async def use(provider: Http, upstream: Upstream) -> ProviderError:
        error = await fails(provider, upstream)
        await upstream.gone.wait()
        return error

    error = with_upstream(dialect, hangs(wire[what]), use, timeouts)
    assert (error.code, error.retryable) == ("TIMEOUT", True)
    assert message in error.message


@every_dialect
def test_a_connection_that_cannot_be_made_in_time(dialect: str) -> None:
    async def use(_: Http, upstream: Upstream) -> ProviderError:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as busy:
            holds = provider_of(dialect, upstream.root, busy).stream(HI)
            await anext(holds)
            error = await fails(provider_of(dialect, upstream.root, busy, Timeouts(connect_s=0.02)), upstream)
            await close(holds)
            return error

    error = with_upstream(dialect, hangs(begun(dialect)), use)
    assert (error.code, error.retryable) == ("TIMEOUT", True)
    assert "reached in time" in error.message


# -- stopping ----------------------------------------------------------------------------------------------------------

CLOSES_WITHIN_S: Final = 1.0


@every_dialect
def test_closing_the_iterator_closes_the_call(dialect: str) -> None:
    async def use(provider: Http, upstream: Upstream) -> None:
        pieces = provider.stream(HI)
        assert await anext(pieces) == Delta("Hel")
        await close(pieces)
        async with asyncio.timeout(CLOSES_WITHIN_S):
            await upstream.gone.wait()

    with_upstream(dialect, hangs(begun(dialect)), use)


@every_dialect
@pytest.mark.parametrize("phase", ["asked", "head", "writing"])
def test_cancelling_the_reader_closes_the_call(dialect: str, phase: str) -> None:
    wire = {"asked": b"", "head": HEAD, "writing": begun(dialect)}[phase]
    asked = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        asked.set()
        await hangs(wire)(reader, writer)

    async def use(provider: Http, upstream: Upstream) -> None:
        reading = asyncio.create_task(collect(provider))
        await asked.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(CLOSES_WITHIN_S):
            await upstream.gone.wait()

    with_upstream(dialect, script, use)


# -- secrets -----------------------------------------------------------------------------------------------------------


@every_dialect
@pytest.mark.parametrize("status", [401, 500])
def test_a_key_is_sent_and_never_shown(dialect: str, status: int) -> None:
    body = fault("authentication_error", f"bad key {KEY}", code=KEY if status == 500 else None)
    refuses = says(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body)), body)

    async def use(provider: Http, upstream: Upstream) -> None:
        error = await fails(provider, upstream)
        line, headers, _ = upstream.requests[0]
        assert any(KEY in value for value in headers.values())
        assert KEY not in line
        assert KEY not in f"{provider!r} {error!r} {error.message}"

    with structlog.testing.capture_logs() as logged:
        with_upstream(dialect, refuses, use)
    assert logged
    assert KEY not in json.dumps(logged)


def test_a_failure_in_mid_stream_is_logged_without_what_it_quotes() -> None:
    body = b'data: {"error": {"message": "no answer to: what is it like?", "type": "server_error"}}\n\n'

    async def use(provider: Http, _: Upstream) -> None:
        request = msgspec.structs.replace(HI, messages=[Message("user", "What is it like? what is it like?")])
        assert (await collect(provider, request))[1] is not None

    with structlog.testing.capture_logs() as logged:
        with_upstream("chat_completions", says(HEAD, chunked(body), END), use)
    assert "server_error" in json.dumps(logged)
    assert [entry["said"] for entry in logged] == ["no answer to:…"]
