"""Front A, Chat Completions: chunks that the official SDK reads back to the log's text, calls, usage and errors."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.protocol.fronts.cases import LOGS, STREAM, WHOLE, end, entries_of, text_of
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import Failure, Thinking, Token, ToolCall
from tokenrelay.protocol.fronts import chat, openai, responses_fold, ui
from tokenrelay.protocol.fronts.asked import Remembered, pack, unpack
from tokenrelay.protocol.store.entries import pack as pack_entry
from tokenrelay.protocol.store.entries import unpack_entry
from tokenrelay.protocol.wire.snapshot import Snapshot

KEPT = Remembered("chat", 1_793_880_000, with_usage=True)


def encoded(name: str, kept: Remembered = KEPT, *, with_ids: bool = False) -> list[bytes]:
    encode = chat.Chunks(kept, with_ids=with_ids).encode
    return [encode(entry, number, STREAM) for number, entry in enumerate(entries_of(name), 1)]


def datas(frames: bytes) -> list[Any]:
    lines = [line[6:] for line in frames.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def chunks(name: str, kept: Remembered = KEPT) -> list[dict[str, Any]]:
    return [value for value in datas(b"".join(encoded(name, kept))) if value != "[DONE]"]


def snapshot(name: str) -> Snapshot:
    made = Snapshot()
    made.take(1, entries_of(name))
    return made


@pytest.mark.parametrize("name", LOGS)
def test_a_stream_ends_with_done_exactly_once(name: str) -> None:
    frames = b"".join(encoded(name))
    assert frames.count(b"data: [DONE]\n\n") == 1
    assert frames.endswith(b"data: [DONE]\n\n")
    assert b"event:" not in frames
    assert b"retry:" not in frames
    assert b"\nid:" not in frames


@pytest.mark.parametrize("name", WHOLE)
def test_the_official_sdk_reads_the_log_back(name: str) -> None:
    state = ChatCompletionStreamState()
    for value in chunks(name):
        assert {"id", "object", "created", "model", "choices"} <= value.keys()
        state.handle_chunk(ChatCompletionChunk.model_validate(value))
    made = state.current_completion_snapshot
    own = [event for event in LOGS[name] if isinstance(event, ToolCall) and event.own]
    assert (made.choices[0].message.content or "") == text_of(name)
    calls = made.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        (event.call_id, event.name, event.input) for event in own
    ]
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (5, 7, 12)
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 2


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_object_says_what_the_stream_says(name: str) -> None:
    made = ChatCompletion.model_validate(chat.whole(snapshot(name), STREAM, KEPT))
    state = ChatCompletionStreamState()
    for value in chunks(name):
        state.handle_chunk(ChatCompletionChunk.model_validate(value))
    streamed = state.current_completion_snapshot
    assert (made.choices[0].message.content or "") == (streamed.choices[0].message.content or "")
    assert made.choices[0].finish_reason == streamed.choices[0].finish_reason
    assert made.usage == streamed.usage
    assert (made.id, made.created, made.model) == (streamed.id, streamed.created, streamed.model)


@pytest.mark.parametrize("name", WHOLE)
def test_the_object_that_is_written_while_the_log_is_read_is_the_same(name: str) -> None:
    passing, made = Snapshot(), chat.Document()
    told = made.begin()
    for number, entry in enumerate(entries_of(name), 1):
        if text := passing.pass_on(number, entry):
            told += made.take(text)
    told += made.end(chat.whole(passing, STREAM, KEPT))
    assert json.loads(told) == chat.whole(snapshot(name), STREAM, KEPT)


@pytest.mark.parametrize("name", ["failed", "failed at once", "cancelled", "our tool cut off"])
def test_an_answer_that_is_not_whole_never_looks_whole(name: str) -> None:
    told = chunks(name)
    assert all(not choice["finish_reason"] for value in told for choice in value.get("choices", ()))
    assert set(told[-1]["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(LookupError):
        chat.whole(snapshot(name), STREAM, KEPT)


def test_usage_comes_once_and_only_where_it_was_asked_for() -> None:
    told = chunks("text")
    assert [value["usage"] is not None for value in told] == [False] * (len(told) - 1) + [True]
    assert not any("usage" in value for value in chunks("text", Remembered("chat", 1)))


@pytest.mark.parametrize("name", LOGS)
def test_a_reader_that_resumes_after_any_entry_gets_the_rest(name: str) -> None:
    parts = encoded(name, with_ids=True)
    for number, part in enumerate(parts, 1):
        if not part:
            continue
        assert part.count(b"id: ") == 1
        assert b"id: %d\n" % number in part
        values = [value for value in datas(part) if value != "[DONE]"]
        assert [value.get("sequence_number") for value in values] == [None] * (len(values) - 1) + [number]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_field_that_fails_in_the_stream_has_the_name_that_the_caller_used(name: str) -> None:
    kept = parsed(**{name: 9}).remembered
    failed = pack_entry(Failure(1, "VALIDATION_ERROR", "max_tokens: too many", False, field="max_tokens"))
    [told, _] = datas(chat.Chunks(kept).encode(unpack_entry(failed), 1, STREAM))
    assert (told["error"]["param"], told["error"]["message"]) == (name, f"{name}: too many")


@given(st.text(min_size=1), st.text(min_size=1), st.booleans(), st.booleans(), st.sampled_from([Token, Thinking]))
def test_the_short_way_of_a_piece_writes_what_a_chunk_is(
    text: str, model: str, with_usage: bool, with_ids: bool, kind: Any
) -> None:
    chunks = chat.Chunks(Remembered("chat", 7, with_usage), with_ids=with_ids)
    name = "content" if kind is Token else "reasoning_content"
    choice = {"index": 0, "delta": {name: text}, "logprobs": None, "finish_reason": None}
    for which in (model, "other"):
        usage = {"usage": None} if with_usage else {}
        value = {"id": f"chatcmpl-{STREAM}", "object": "chat.completion.chunk", "created": 7, "model": which,
                 "choices": [choice], **usage, "sequence_number": 9}  # fmt: skip
        head = b"id: 9\n" if with_ids else b""
        entry = unpack_entry(pack_entry(kind(1, which, text)))
        assert chunks.encode(entry, 9, STREAM) == head + openai.frame(value)


def test_what_it_cost_stands_in_the_usage() -> None:
    paid = msgspec.structs.replace(end(), cost_usd=0.25)
    assert chat.usage_object(paid)["cost_usd"] == responses_fold.usage_object(paid)["cost_usd"] == 0.25
    assert ui.usage_object(paid) == {
        "inputTokens": 5, "outputTokens": 7, "totalTokens": 12, "cachedInputTokens": 2, "reasoningTokens": 3,
        "costUsd": 0.25,
    }  # fmt: skip
    assert not {"cost_usd", "costUsd"} & {*chat.usage_object(end()), *ui.usage_object(end())}


def test_thinking_is_shown_unless_the_body_says_otherwise() -> None:
    assert parsed().request.show == ["thinking"]
    assert parsed(show=[]).request.show == []


def test_tools_of_the_server_are_not_shown_to_a_client_that_would_run_them() -> None:
    assert not any(
        choice["delta"].get("tool_calls") for v in chunks("our tool between texts") for choice in v["choices"]
    )


def test_what_is_kept_beside_the_log_is_read_back() -> None:
    kept = Remembered("chat", 17, with_usage=True, left_out=["verbosity"], options={"a": 1})
    assert unpack(pack(kept)) == kept
    assert unpack(None) is unpack(b"") is unpack(b"\xc1") is None


# -- requests ----------------------------------------------------------------------------------------------------------

HI = {"role": "user", "content": "hi"}


def parsed(**body: Any) -> Any:
    raw = json.dumps({"model": "m", "messages": [HI], **body}).encode()
    return chat.parse(raw, on_disconnect="grace:30", now_s=7)


def test_what_agents_send_by_default_is_taken() -> None:
    made = parsed(
        stream=True, stream_options={"include_usage": True}, max_completion_tokens=9, max_tokens=None, stop=None,
        user="u",
        store=False, n=1, logprobs=False, logit_bias={}, parallel_tool_calls=True, tool_choice="auto", temperature=0.5,
        tools=[{"type": "function", "function": {"name": "calculator", "parameters": {}, "strict": True}}],
    )  # fmt: skip
    assert (made.request.stream, made.request.max_tokens, made.request.temperature) == (True, 9, 0.5)
    assert made.request.tools[0].own
    assert made.request.enable_tools is None  # False would switch the declared function off with the server's tools
    assert parsed().request.enable_tools is False
    assert made.request.on_disconnect == "grace:30"
    named = {"max_tokens": "max_completion_tokens"}
    assert made.remembered == Remembered("chat", 7, with_usage=True, names=named)


def test_what_is_not_taken_is_named() -> None:
    made = parsed(verbosity="low", presence_penalty=0.5, frequency_penalty=0, top_k=3)
    assert made.remembered.left_out == ["presence_penalty", "top_k", "verbosity"]
    last = chunks("text", Remembered("chat", 1, left_out=["verbosity"]))[-1]
    assert last["left_out"] == ["verbosity"]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("top_logprobs", {"top_logprobs": 3}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("audio", {"audio": {"voice": "x"}}),
        ("web_search_options", {"web_search_options": {"a": 1}}),
        ("functions", {"functions": [{"name": "f"}]}),
        ("function_call", {"function_call": "auto"}),
        ("logit_bias", {"logit_bias": {"1": 2}}),
        ("tools[0].type", {"tools": [{"type": "custom", "custom": {}}]}),
        ("messages[0].role", {"messages": [{"role": "function", "name": "f", "content": "x"}]}),
        ("messages[0].content[1]", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {}]}]}),
        ("messages[0].role", {"messages": [{"role": "wizard", "content": "x"}]}),
        ("max_completion_tokens", {"max_completion_tokens": "many"}),
        ("max_tokens", {"max_tokens": "many"}),
        ("max_tokens", {"max_tokens": 0, "max_completion_tokens": None}),
        ("temperature", {"temperature": 3}),
        ("messages", {"messages": "hello"}),
        ("messages", {"messages": []}),
    ],
)  # fmt: skip
def test_a_refusal_names_the_parameter_as_the_caller_wrote_it(field: str, body: dict[str, Any]) -> None:
    with pytest.raises(TokenrelayError) as caught:
        parsed(**body)
    told = openai.error_object(caught.value)["error"]
    assert told["param"] == field
    assert told["message"].startswith(field)
    assert told["type"] == "invalid_request_error"
    assert openai.status_of(caught.value) == 400


def test_parts_of_text_are_joined_and_refusals_are_text() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    made = parsed(
        messages=[{"role": "user", "content": content}, {"role": "assistant", "content": None, "refusal": "no"}, HI]
    )
    assert [turn.content for turn in made.request.messages] == ["ab", "no", "hi"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 9000, b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(TokenrelayError) as caught:
        chat.parse(body, on_disconnect="continue", now_s=1)
    assert openai.error_object(caught.value)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (TokenrelayError("UNAUTHORIZED"), 401, "invalid_api_key"),
        (TokenrelayError("CURSOR_AHEAD"), 400, "cursor_ahead"),
        (TokenrelayError("RATE_LIMIT"), 429, "rate_limit_exceeded"),
        (TokenrelayError("OVERLOADED"), 503, "overloaded"),
        (
            TokenrelayError("VALIDATION_ERROR", "model: there is none", field="model", unknown=True),
            404,
            "model_not_found",
        ),
    ],
)
def test_errors_have_the_status_and_the_code_that_sdks_know(error: TokenrelayError, status: int, code: str) -> None:
    assert openai.status_of(error) == status
    assert openai.error_object(error)["error"]["code"] == code


@pytest.mark.parametrize("given", [True, 1, 1.5, "text", [{}], [[]], ["text", "audio"]])
def test_modalities_of_any_shape_are_refused_by_name(given: Any) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "modalities": given}).encode()
    with pytest.raises(TokenrelayError) as refused:
        chat.parse(body, on_disconnect="continue", now_s=1)
    assert refused.value.fields["field"] == "modalities"
