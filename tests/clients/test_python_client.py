"""The Python client where servers misbehave: its retries, its errors, who owns what; async and sync alike."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from tokenrelay_client import (
    Client,
    Completion,
    Data,
    Failed,
    Refused,
    SyncClient,
    Thinking,
    Token,
    ToolArguments,
    ToolCall,
    ToolResult,
    Unreachable,
)
from tokenrelay_client.answer import Answer
from tokenrelay_client.errors import refusal_of
from tokenrelay_client.retry import MAX_REFUSALS, MAX_RETRY_S, Backoff, RetryPolicy, Wait
from tokenrelay_client.transport import Dropped, Said

from tests.clients.service import ID, PATIENCE_S, STARTED, Service, answer_of, event, says, streams, talks
from tests.clients.service import told as told_event
from tokenrelay.loadtest.fleet import free_port


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    asyncio.run(bounded())


# -- pure ------------------------------------------------------------------------------------------------------------


def test_an_answer_takes_each_event_once_and_nothing_after_its_end() -> None:
    answer = Answer(0)
    accepted = {"token": "", "done": False, "status": "queued"}
    news = [
        (None, accepted, True), (None, accepted, False), (1, {"token": "a", "done": False}, True),
        (1, {"token": "a", "done": False}, False), (None, {"token": "x", "done": False}, False),
        (3, {"token": "b", "done": False, "new": 1}, True), (2, {"token": "c", "done": False}, False),
        (4, {"token": "", "done": True}, True), (5, {"token": "d", "done": False}, False),
    ]  # fmt: skip
    assert [answer.take(number, data) for number, data, _ in news] == [is_news for *_, is_news in news]
    assert (answer.text, answer.last_event_id) == ("ab", 4)


def test_waits_begin_with_the_servers_own_grow_and_are_capped() -> None:
    backoff = Backoff(lambda: 1.0)
    backoff.advise(2.0)
    assert [backoff.delay_s(count) for count in (0, 1, 2, 3, 50)] == [2.0, 4.0, 8.0, MAX_RETRY_S, MAX_RETRY_S]
    backoff.advise(0)
    assert backoff.delay_s(0) == 0.1


LIMIT = refusal_of({"error_code": "RATE_LIMIT", "error": "slow down", "retry_after": 7}, 429)


def test_a_limit_is_waited_for_as_long_as_the_server_says_and_not_for_ever() -> None:
    retry = RetryPolicy(Backoff(lambda: 0.0), 300, 300)
    for _ in range(MAX_REFUSALS):
        assert retry.after(Said(LIMIT), has_id=False, is_cursor_ours=False) == Wait(7, is_firm=True)
    with pytest.raises(Refused, match="slow down"):
        retry.after(Said(LIMIT), has_id=False, is_cursor_ours=False)


def test_a_server_that_never_answered_is_given_up_sooner() -> None:
    def tries(retry: RetryPolicy) -> int:
        for count in range(1000):
            try:
                retry.after(Dropped("refused"), has_id=False, is_cursor_ours=False)
            except Unreachable:
                return count
        return -1

    known = RetryPolicy(Backoff(lambda: 1.0), 100, 5)
    known.heard()
    assert 0 < tries(RetryPolicy(Backoff(lambda: 1.0), 100, 5)) < tries(known)


@pytest.mark.parametrize(
    ("code", "status", "fields", "is_ours", "passes"),
    [
        ("CURSOR_AHEAD", 409, {}, True, True),
        ("CURSOR_AHEAD", 409, {}, False, False),
        ("SERVICE_UNAVAILABLE", 503, {}, False, True),
        ("SERVICE_UNAVAILABLE", 503, {"field": "model"}, False, False),
        ("NEWER_THAN_THIS", 502, {}, False, True),
        ("NEWER_THAN_THIS", 418, {}, False, False),
        ("NOT_FOUND", 404, {}, False, False),
    ],
)
def test_what_may_pass_is_tried_again(code: str, status: int, fields: Any, is_ours: bool, passes: bool) -> None:
    error = refusal_of({"error_code": code, **fields}, status)
    retry = RetryPolicy(Backoff(lambda: 0.0), 300, 300)
    if passes:
        assert retry.after(Said(error), has_id=True, is_cursor_ours=is_ours).seconds > 0
    else:
        with pytest.raises(Refused):
            retry.after(Said(error), has_id=True, is_cursor_ours=is_ours)


# -- over sockets ------------------------------------------------------------------------------------------------------


def test_a_start_whose_answer_is_lost_is_sent_again_with_the_same_key() -> None:
    async def scene() -> None:
        fates = [says(502, "<html>a proxy's own page"), streams(b""), streams(answer_of("a", "b"))]
        async with Service(fates) as service, Client(service.url, transport="sse") as client:
            stream = client.chat({"message": "hello"})
            assert (await stream.completion() or {})["output_tokens"] == 2
            assert stream.text == "ab"
            assert [(method, path) for method, path, _ in service.asked] == [
                ("POST", "/api/chat"), ("POST", "/api/chat"), ("GET", f"/api/streams/{ID}"),
            ]  # fmt: skip
            keys = {headers["Idempotency-Key"] for method, _, headers in service.asked if method == "POST"}
            assert keys == {stream.idempotency_key}

    play(scene())


def test_every_kind_of_event_is_an_object_of_its_kind() -> None:
    call = {"tool_call_id": "c1", "tool_name": "sum", "tool_input": {"a": 1}}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "reasoning_tokens": 2}
    told: list[tuple[type[Any], dict[str, Any]]] = [
        (Thinking, {"status": "thinking"}),
        (Thinking, {"thinking": "Let me see."}),
        (ToolArguments, {"tool_call_id": "c1", "tool_input_delta": '{"a"', "tool_input_name": "sum"}),
        (ToolArguments, {"tool_call_id": "c1", "tool_input_delta": ": 1}"}),
        (ToolCall, call),
        (ToolResult, {**call, "tool_result": "1"}),
        (Data, {"data_name": "note", "data": {"page": 7}}),
        (Token, {"token": "Yes."}),
        (Completion, {"done": True, "finish_reason": "stop", "usage": usage, "cost_usd": 0.25}),
    ]
    options = {
        "show": ["thinking", "tool_input"], "reasoning_effort": "low", "response_format": {"type": "json_object"},
        "tool_choice": "none", "metadata": {"a": "b"},
    }  # fmt: skip
    heard: list[dict[str, Any]] = []
    frames = [told_event(number, **fields) for number, (_, fields) in enumerate(told, 1)]

    async def scene() -> None:
        async with (
            Service([talks([STARTED, *frames], heard=heard)]) as service,
            Client(service.url, transport="websocket") as client,
        ):
            stream = client.chat({"message": "hi", **options})
            end = await stream.completion()
            typed = [event.typed for event in stream.events if event.id is not None]
            assert [type(event) for event in typed] == [kind for kind, _ in told]
            assert [event.thinking for event in typed if isinstance(event, Thinking)] == ["", "Let me see."]
            pieces = [event for event in typed if isinstance(event, ToolArguments)]
            assert "".join(piece.tool_input_delta for piece in pieces) == '{"a": 1}'
            assert [piece.tool_input_name for piece in pieces] == ["sum", None]
            assert [(event.data_name, event.value) for event in typed if isinstance(event, Data)] == [
                ("note", {"page": 7})
            ]
            assert end is not None
            assert (end["usage"], end["cost_usd"], stream.text) == (usage, 0.25, "Yes.")

    play(scene())
    assert options.items() <= next(said for said in heard if said["type"] == "start").items()


def test_a_page_that_is_no_stream_is_not_taken_for_one() -> None:
    async def scene() -> None:
        async with Service([says(200, "<html>log in"), streams(answer_of("a"))]) as service:
            async with Client(service.url, transport="sse") as client:
                assert await client.chat("hello").completion()
            assert len(service.asked) == 2

    play(scene())


def test_a_failed_answer_keeps_its_text_and_raises_after_its_last_event() -> None:
    end = event(3, done=True, error="it broke", error_code="PROVIDER_ERROR", retryable=False)

    async def scene() -> None:
        async with (
            Service([streams(event(2, token="so far") + end)]) as service,
            Client(service.url, transport="sse") as client,
        ):
            stream = client.chat("hello")
            seen: list[int | None] = []

            async def look() -> None:
                async for number, _ in stream:
                    seen.append(number)

            with pytest.raises(Failed, match="it broke") as caught:
                await look()
            assert (seen, stream.text, stream.state) == ([2, 3], "so far", "failed")
            assert (caught.value.code, caught.value.retryable) == ("PROVIDER_ERROR", False)

    play(scene())


def test_the_key_is_asked_for_every_request() -> None:
    keys = iter(["one", "two", "three"])

    async def scene() -> None:
        fates = [streams(event(1)), streams(event(2, done=True))]
        async with Service(fates) as service, Client(service.url, lambda: next(keys), transport="sse") as client:
            await client.chat("hello").completion()
            assert [headers["Authorization"] for *_, headers in service.asked] == ["Bearer one", "Bearer two"]

    play(scene())


def test_leaving_the_block_lets_go_of_every_stream() -> None:
    async def scene() -> None:
        hold = asyncio.Event()

        async def silent(request: Any) -> Any:
            await hold.wait()
            raise AssertionError

        async with Service([silent]) as service:
            async with Client(service.url, transport="sse") as client:
                stream = client.chat("hello")
            assert stream.state == "detached"
            assert [item async for item in stream] == []
            assert await stream.completion() is None
            with pytest.raises(RuntimeError, match="inside its `with` block"):
                client.chat("hello")
            assert len(asyncio.all_tasks()) <= 3  # this one, and the service's own

    play(scene())


def test_a_fault_of_the_client_itself_ends_the_stream() -> None:
    def no_key() -> str:
        raise LookupError("no key today")

    async def scene() -> None:
        async with Client("http://127.0.0.1:9", no_key) as client:
            with pytest.raises(Failed, match="no key today"):
                await client.chat("hello").completion()

    play(scene())


# -- without await -----------------------------------------------------------------------------------------------------


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_no_server_is_said_in_the_end_and_nothing_is_left_behind() -> None:
    with SyncClient(f"http://127.0.0.1:{free_port()}", patience_s=0) as client:
        assert "tokenrelay" in threads()
        stream = client.chat("hello")
        with pytest.raises(Unreachable) as caught:
            list(stream)
        assert (caught.value.code, caught.value.status, stream.state) == ("UNREACHABLE", 0, "failed")
    assert "tokenrelay" not in threads()
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        client.chat("hello")
    with pytest.raises(RuntimeError, match="closed"):
        stream.cancel()


def test_an_interrupted_call_leaves_nothing_running() -> None:
    """Ctrl-C in `cancel`, say: what was asked of the loop's thread is not done later, unasked."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            while sys._current_frames()[threading.main_thread().ident or 0].f_code.co_name != "wait":
                await asyncio.sleep(0)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            ended.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs us may have it ignored
    try:
        with SyncClient("http://127.0.0.1:9") as client:
            with pytest.raises(KeyboardInterrupt):
                client._running.run(work())
            assert begun.is_set()
            assert ended.wait(PATIENCE_S)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_bad_cursor_is_said_at_once() -> None:
    with SyncClient("http://127.0.0.1:9") as client, pytest.raises(Refused) as caught:
        client.resume(ID, "1.5")
    assert caught.value.code == "INVALID_CURSOR"
