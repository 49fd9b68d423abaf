"""The parsers where no transcript of a provider's own goes: rubbish, floods, halves of characters, cuts at any byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.oracle.cases import CASES, DIALECTS, Case, understood
from tests.workers.oracle.test_oracle import PARSERS, parse
from tokenrelay.workers.conversation import Delta, Finish, Piece, Thinking, ToolInput, ToolUse
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.parser import MAX_TOOL_BYTES, MAX_TOOL_CALLS

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def data(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def chat(*deltas: dict[str, Any], finish: str | None = None) -> bytes:
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    return b"".join(map(data, chunks)) + (data({"choices": [{"finish_reason": finish}]}) if finish else b"")


def candidate(*parts: Any, finish: str | None = None) -> bytes:
    return data({"candidates": [{"content": {"parts": list(parts)}, "finishReason": finish}]})


def writes(dialect: str, *texts: str) -> bytes:
    """An answer of these deltas, with nothing in it that is not needed."""
    if dialect == "chat_completions":
        return chat(*({"content": text} for text in texts), finish="stop")
    if dialect == "responses":
        events: list[dict[str, Any]] = [{"type": "response.output_text.delta", "delta": text} for text in texts]
        return b"".join(map(data, [*events, {"type": "response.completed", "response": {}}]))
    if dialect == "anthropic":
        changes = [{"type": "text_delta", "text": text} for text in texts]
        events = [{"type": "content_block_delta", "index": 0, "delta": change} for change in changes]
        return b"".join(map(data, [*events, {"type": "message_stop"}]))
    return b"".join(candidate({"text": text}) for text in texts) + candidate(finish="STOP")


def calls(dialect: str, arguments: str, count: int = 1, name: str = "f", size: int = 10**6) -> bytes:
    """So many calls with these arguments, in pieces of `size`. Gemini's come as JSON, whole."""
    pieces = [arguments[at : at + size] for at in range(0, len(arguments), size)]
    wire = b""
    for index in range(count):
        if dialect == "chat_completions":
            wire += chat({"tool_calls": [{"index": index, "id": f"c{index}", "function": {"name": name}}]})
            fragments = [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
            wire += chat(*fragments)
        elif dialect == "responses":
            item = {"type": "function_call", "call_id": f"c{index}", "name": name, "arguments": ""}
            wire += data({"type": "response.output_item.added", "output_index": index, "item": item})
            kind = "response.function_call_arguments.delta"
            wire += b"".join(data({"type": kind, "output_index": index, "delta": piece}) for piece in pieces)
        elif dialect == "anthropic":
            block = {"type": "tool_use", "id": f"c{index}", "name": name, "input": {}}
            wire += data({"type": "content_block_start", "index": index, "content_block": block})
            changes = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            wire += b"".join(data({"type": "content_block_delta", "index": index, "delta": one}) for one in changes)
        else:
            call = b'{"functionCall": {"id": "c%d", "name": "%b", "args": %b}}'
            part = call % (index, name.encode(), arguments.encode())
            wire += data(b'{"candidates": [{"content": {"parts": [%b]}}]}' % part)
    return wire + writes(dialect)


def said(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """What an answer consists of, without the signs of life on the way."""
    return (piece for piece in pieces if isinstance(piece, (Delta, ToolUse, Finish)))


def read(dialect: str, wire: bytes) -> list[Any]:
    """What comes out; a failure as (code, retryable), last."""
    parser = PARSERS[dialect]("asked-for")
    pieces: list[Any] = []
    try:
        for piece in said(parser.feed(wire)):
            pieces.append(piece)  # noqa: PERF402 - what came before a failure counts
        pieces.extend(said(parser.end()))
    except ProviderError as error:
        pieces.append(told(error))
    return pieces


def told(error: ProviderError) -> tuple[str, bool]:
    """What a client learns; never the provider's own words."""
    assert "secret" not in error.message
    return error.code, error.retryable


def calls_in(pieces: list[Any]) -> list[dict[str, Any]]:
    return [piece.arguments for piece in pieces if isinstance(piece, ToolUse)]


AGAIN: Final = ("PROVIDER_ERROR", True)
NEVER: Final = ("PROVIDER_ERROR", False)

RUBBISH: Final = [
    ("nothing", b"", AGAIN),
    ("not JSON", data(b"<html>secret"), AGAIN),
    ("a list", data(b"[]"), AGAIN),
    ("an error of text", data({"type": "error", "error": "secret"}), AGAIN),
    ("an error of nothing known", data({"type": "error", "error": {"message": "secret", "code": [1]}}), AGAIN),
    ("an error that stays", data({"type": "error", "error": {"type": "invalid_request_error"}}), NEVER),
    ("too many requests", data({"type": "error", "error": {"code": 429}}), ("RATE_LIMIT", True)),
    ("an event without end", b"data: " + b"x" * (8 * 1024 * 1024 + 1), NEVER),
]


@every_dialect
@pytest.mark.parametrize(("name", "wire", "end"), RUBBISH, ids=[name for name, _, _ in RUBBISH])
def test_rubbish_is_a_failure_of_the_provider(dialect: str, name: str, wire: bytes, end: tuple[str, bool]) -> None:
    assert read(dialect, wire) == [end]


@every_dialect
def test_a_minimal_answer_is_one(dialect: str) -> None:
    assert read(dialect, writes(dialect, "a", "b")) == [Delta("a"), Delta("b"), Finish("stop", 0, 0, "asked-for")]


@every_dialect
@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a\ud83d", "\ude00b"], ["a", "😀b"]),
        (["a\ud83d b"], ["a\ufffd b"]),
        (["a\ud83d"], ["a", "\ufffd"]),
        (["\ude00b"], ["\ufffdb"]),
    ],
)
def test_halves_of_characters(dialect: str, texts: list[str], found: list[str]) -> None:
    pieces = read(dialect, writes(dialect, *texts))
    assert [piece.text for piece in pieces[:-1]] == found


@every_dialect
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("{}", [{}]),
        ('{"a": "\\ud83d\\ude00"}', [{"a": "😀"}]),
        ('{"a": "x\\ud83dy"}', [{"a": "x\ufffdy"}]),
        ('{"n": 99999999999999999999}', [{"n": 1e20}]),
        ("[1]", []),
        ('"x"', []),
    ],
)
def test_arguments_are_an_object_that_every_wire_holds(
    dialect: str, arguments: str, found: list[dict[str, Any]]
) -> None:
    pieces = read(dialect, calls(dialect, arguments, size=3))
    assert calls_in(pieces) == found
    assert (pieces[-1] == AGAIN) is not bool(found)


@every_dialect
def test_a_call_of_nothing_is_none(dialect: str) -> None:
    assert read(dialect, calls(dialect, "{}", name="")) == [AGAIN]


@every_dialect
def test_a_model_that_runs_wild_is_stopped(dialect: str) -> None:
    assert len(calls_in(read(dialect, calls(dialect, "{}", MAX_TOOL_CALLS)))) == MAX_TOOL_CALLS
    assert read(dialect, calls(dialect, "{}", MAX_TOOL_CALLS + 1)) == [NEVER]
    assert read(dialect, calls(dialect, json.dumps({"a": "x" * MAX_TOOL_BYTES}), size=100_000)) == [NEVER]


OPENROUTER: Final = {"type": "reasoning.text", "text": "hm"}
MISTRAL: Final = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
THOUGHTS: Final = [
    ("chat_completions", {"choices": [{"delta": {"reasoning_content": "hm"}}]}, "hm"),
    ("chat_completions", {"choices": [{"delta": {"reasoning": "hm"}}]}, "hm"),
    ("chat_completions", {"choices": [{"delta": {"reasoning": "hm", "reasoning_content": "hm"}}]}, "hm"),
    ("chat_completions", {"choices": [{"delta": {"reasoning_details": [OPENROUTER]}}]}, "hm"),
    ("chat_completions", {"choices": [{"delta": {"content": [MISTRAL]}}]}, "hm"),
    ("responses", {"type": "response.reasoning_text.delta", "delta": "hm"}, "hm"),
    ("responses", {"type": "response.reasoning_summary_text.delta", "delta": "hm"}, "hm"),
    ("responses", {"type": "response.output_item.added", "item": {"type": "reasoning"}}, ""),
    ("anthropic", {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}}, ""),
    ("anthropic", {"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": "E"}}, ""),
    ("anthropic", {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}, "hm"),
    ("gemini", {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}, "hm"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "event", "text"), THOUGHTS)
def test_thinking_is_told_and_is_not_the_answer(dialect: str, event: dict[str, Any], text: str) -> None:
    parser = PARSERS[dialect]("m")
    assert list(parser.feed(data(event))) == [Thinking(text)]
    assert not parser.has_written


@every_dialect
def test_arguments_are_told_as_they_are_written(dialect: str) -> None:
    parser = PARSERS[dialect]("m")
    pieces = [*parser.feed(calls(dialect, '{"city": "Bern"}', size=5)), *parser.end()]
    inputs = [piece for piece in pieces if isinstance(piece, ToolInput)]
    assert ("".join(piece.text for piece in inputs), {piece.call_id for piece in inputs}) == (
        '{"city": "Bern"}',
        {"c0"},
    )
    assert [piece.name for piece in inputs] == ["f", *[""] * (len(inputs) - 1)]
    assert [use.call_id for use in pieces if isinstance(use, ToolUse)] == ["c0"]
    assert len(inputs) >= (1 if dialect == "gemini" else 4)


SIGNED: Final = {"type": "thinking", "thinking": "", "signature": "EqQ="}
TURNS: Final[list[tuple[str, str, Any]]] = [
    (
        "responses",
        "thinking_then_tool_call",
        [
            {"type": "reasoning", "id": "rs_0", "summary": [], "encrypted_content": "gAAAAB"},
            {"type": "function_call", "call_id": "call_a"},
        ],
    ),
    (
        "anthropic",
        "thinking_then_tool_call",
        [SIGNED, {"type": "redacted_thinking", "data": "Emw="}, {"type": "tool_use", "id": "toolu_a"}],
    ),
    ("gemini", "one_tool_call", [{"call": "fc-a", "id": "fc-a", "thoughtSignature": "c2ln"}]),
    ("gemini", "tool_call_without_id", [{"call": "call_0", "id": None}]),
    ("chat_completions", "one_tool_call", None),
]


@pytest.mark.parametrize(("dialect", "name", "turn"), TURNS)
def test_a_turn_is_kept_as_its_provider_wants_it_back(dialect: str, name: str, turn: Any) -> None:
    case = next(case for case in CASES if (case.dialect, case.name) == (dialect, name))
    parser = PARSERS[dialect]("asked-for")
    for _ in (*parser.feed(case.body), *parser.end()):
        pass
    assert parser.turn() == turn


SMALL: Final = [case for case in CASES if len(case.body) < 6000]


@settings(deadline=None)  # a busy machine is no fault of the parser
@given(st.data())
def test_any_split_reads_the_same(given_data: st.DataObject) -> None:
    case = given_data.draw(st.sampled_from(SMALL))
    cuts = sorted(given_data.draw(st.lists(st.integers(0, len(case.body)), max_size=8)))
    bounds = [0, *cuts, len(case.body)]
    assert parse(case, [case.body[a:b] for a, b in itertools.pairwise(bounds)]) == case.answer


@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("text", "parallel_tool_calls")], ids=str)
def test_a_cut_at_any_byte_is_never_a_whole_answer_with_less_in_it(case: Case) -> None:
    for end in range(len(case.body)):
        pieces: list[Piece] = []
        parser = PARSERS[case.dialect]("m")
        try:
            pieces.extend(parser.feed(case.body[:end]))
            pieces.extend(parser.end())
        except ProviderError as error:
            failure = told(error)
        else:
            failure = AGAIN
            found = understood(case, pieces, None)
            assert (found.text, found.calls) == (case.answer.text, case.answer.calls), end
        assert failure == AGAIN, end


def test_arguments_that_gemini_sends_in_places_are_told_once_they_are_complete() -> None:
    parts = [
        {"functionCall": {"name": "f", "willContinue": True}},
        {"functionCall": {"partialArgs": [{"jsonPath": "$.a", "stringValue": "x"}], "willContinue": True}},
        {"functionCall": {"partialArgs": [{"jsonPath": "$.a", "stringValue": "y"}]}},
    ]
    parser = PARSERS["gemini"]("m")
    frames = [json.dumps({"candidates": [{"content": {"parts": [part]}}]}) for part in parts]
    pieces = [piece for frame in frames for piece in parser.feed(f"data: {frame}\n\n".encode())]
    assert pieces == [ToolInput("call_0", "f", ""), ToolInput("call_0", "", '{"a": "xy"}')]
