"""Every event, part, field and reason that the providers' SDKs know has an outcome here; one that they learn is red.

`told` reaches the reader or the next round; `life` keeps the wait open and nothing else; whatever is ignored says why.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import pytest

from tests.workers.oracle import sdks
from tests.workers.oracle.test_oracle import PARSERS
from tokenrelay.workers.conversation import Delta, Piece, Thinking, ToolInput, ToolUse
from tokenrelay.workers.providers import anthropic, chat_completions, gemini, responses
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.fault_table import WORDS
from tokenrelay.workers.providers.faults import Fault, mid_stream_failure

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

TOLD: Final = "told"
LIFE: Final = "life"
REPEATED: Final = "life: it repeats what was told"
THEIRS: Final = "life: of a tool that runs at the provider, which no request of ours asks for"
NO_SOUND: Final = "life: sounds are not asked for"
META: Final = "ignored: about the call, not of the answer"

RESPONSES: Final[Mapping[str, str]] = {
    "response.output_text.delta": TOLD,
    "response.refusal.delta": TOLD,
    "response.reasoning_summary_text.delta": TOLD,
    "response.reasoning_text.delta": TOLD,
    "response.reasoning_summary_part.added": TOLD,
    "response.function_call_arguments.delta": TOLD,
    "response.output_item.added": TOLD,
    "response.output_item.done": TOLD,
    "response.completed": TOLD,
    "response.incomplete": TOLD,
    "response.failed": TOLD,
    "error": TOLD,
    "response.created": LIFE,
    "response.in_progress": LIFE,
    "response.queued": LIFE,
    "response.content_part.added": LIFE,
    "response.compaction.compacting": LIFE,
    "response.output_text.done": REPEATED,
    "response.refusal.done": REPEATED,
    "response.content_part.done": REPEATED,
    "response.function_call_arguments.done": REPEATED,
    "response.reasoning_summary_part.done": REPEATED,
    "response.reasoning_summary_text.done": REPEATED,
    "response.reasoning_text.done": REPEATED,
    "response.output_text.annotation.added": "life: the source of a text, which only the provider's own tools give",
    **dict.fromkeys(
        (
            "response.audio.delta",
            "response.audio.done",
            "response.audio.transcript.delta",
            "response.audio.transcript.done",
        ),
        NO_SOUND,
    ),
    **{
        f"response.{tool}": THEIRS
        for tool in (
            "code_interpreter_call_code.delta", "code_interpreter_call_code.done", "code_interpreter_call.completed",
            "code_interpreter_call.in_progress", "code_interpreter_call.interpreting", "file_search_call.completed",
            "file_search_call.in_progress", "file_search_call.searching", "shell_call_command.added",
            "shell_call_command.delta", "shell_call_command.done", "shell_call_output_content.delta",
            "shell_call_output_content.done", "web_search_call.completed", "web_search_call.in_progress",
            "web_search_call.searching", "image_generation_call.completed", "image_generation_call.generating",
            "image_generation_call.in_progress", "image_generation_call.partial_image", "mcp_call_arguments.delta",
            "mcp_call_arguments.done", "mcp_call.completed", "mcp_call.failed", "mcp_call.in_progress",
            "mcp_list_tools.completed", "mcp_list_tools.failed", "mcp_list_tools.in_progress",
            "custom_tool_call_input.delta", "custom_tool_call_input.done",
        )
    },
}  # fmt: skip

ITEMS: Final[Mapping[str, str]] = {
    "message": TOLD,
    "function_call": TOLD,
    "reasoning": TOLD,
    **dict.fromkeys(
        (
            "file_search_call", "function_call_output", "web_search_call", "computer_call", "computer_call_output",
            "program", "program_output", "tool_search_call", "tool_search_output", "additional_tools", "compaction",
            "image_generation_call", "code_interpreter_call", "local_shell_call", "local_shell_call_output",
            "shell_call", "shell_call_output", "apply_patch_call", "apply_patch_call_output", "mcp_call",
            "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "custom_tool_call",
            "custom_tool_call_output",
        ),
        THEIRS,
    ),
}  # fmt: skip

ANTHROPIC: Final[Mapping[str, str]] = {
    "message_start": LIFE,
    "message_delta": TOLD,
    "message_stop": TOLD,
    "content_block_start": TOLD,
    "content_block_delta": TOLD,
    "content_block_stop": LIFE,
}
BLOCKS: Final[Mapping[str, str]] = {
    "text": TOLD,
    "thinking": TOLD,
    "redacted_thinking": TOLD,
    "tool_use": TOLD,
    **dict.fromkeys(
        (
            "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
            "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result",
            "container_upload",
        ),
        THEIRS,
    ),
}  # fmt: skip
DELTAS: Final[Mapping[str, str]] = {
    "text_delta": TOLD,
    "input_json_delta": TOLD,
    "thinking_delta": TOLD,
    "signature_delta": "life: it goes back with the turn",
    "citations_delta": "life: it goes back with the turn; documents are sent without asking for citations",
}

CHUNK: Final[Mapping[str, str]] = {
    "choices": TOLD,
    "model": TOLD,
    "usage": TOLD,
    "object": "told: an error may name itself there",
    **dict.fromkeys(("id", "created", "service_tier", "system_fingerprint", "moderation"), META),
    "obfuscation": "ignored: it makes all chunks one size",
}
CHOICE: Final[Mapping[str, str]] = {
    "delta": TOLD,
    "index": TOLD,
    "finish_reason": TOLD,
    "logprobs": "ignored: they are not asked for",
}
CHANGE: Final[Mapping[str, str]] = {
    "content": TOLD,
    "refusal": TOLD,
    "tool_calls": TOLD,
    "function_call": TOLD,
    "role": "ignored: it is the assistant's",
    "audio": NO_SOUND,
}

PART: Final[Mapping[str, str]] = {
    "text": TOLD,
    "thought": TOLD,
    "thoughtSignature": TOLD,
    "functionCall": TOLD,
    "inlineData": "life: pictures and sounds are not asked for",
    "fileData": "life: of requests, not of answers",
    "functionResponse": "life: of requests, not of answers",
    **dict.fromkeys(("executableCode", "codeExecutionResult", "toolCall", "toolResponse"), THEIRS),
    **dict.fromkeys(
        (
            "mediaResolution", "videoMetadata", "partMetadata", "audioTranscription", "mediaProcessing",
            "speechMetadata", "documentMetadata", "spreadsheetMetadata", "audioMetadata",
        ),
        "life: about pictures, sounds and files",
    ),
}  # fmt: skip
FUNCTION_CALL: Final[Mapping[str, str]] = dict.fromkeys(("id", "name", "args", "partialArgs", "willContinue"), TOLD)
CANDIDATE: Final[Mapping[str, str]] = {
    "content": TOLD,
    "finishReason": TOLD,
    "index": TOLD,
    "finishMessage": "told: to the log, where the reason is a failure",
    "groundingMetadata": THEIRS,
    "urlContextMetadata": THEIRS,
    "citationMetadata": "ignored: where a text may have been learned; it has no place on our wire",
    "continuationToken": "ignored: an answer that goes on elsewhere is told as `length`",
    **dict.fromkeys(("tokenCount", "avgLogprobs", "logprobsResult", "safetyRatings"), META),
}
ANSWER: Final[Mapping[str, str]] = {
    "candidates": TOLD,
    "promptFeedback": TOLD,
    "usageMetadata": TOLD,
    "modelVersion": TOLD,
    **dict.fromkeys(("createTime", "responseId", "modelStatus"), META),
    **dict.fromkeys(("sdkHttpResponse", "automaticFunctionCallingHistory", "parsed"), "ignored: the SDK's own"),
}


def members(union: Any) -> Iterator[Any]:
    """The classes of a union, however it is wrapped."""
    if typing.get_origin(union) is typing.Annotated:
        yield from members(typing.get_args(union)[0])
    elif typing.get_origin(union) is typing.Union:
        for member in typing.get_args(union):
            yield from members(member)
    else:
        yield union


def types_of(union: Any) -> set[str]:
    return {word for member in members(union) for word in typing.get_args(member.model_fields["type"].annotation)}


def literals(annotation: Any) -> set[str]:
    """The words of a Literal, alone or beside None."""
    found: set[str] = set()
    for argument in typing.get_args(annotation):
        found |= {argument} if isinstance(argument, str) else literals(argument)
    return found


def aliases(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _responses(name: str) -> set[str]:
    return types_of(getattr(sdks.quietly("openai.types.responses"), name))


def _anthropic(name: str) -> set[str]:
    return types_of(getattr(sdks.quietly("anthropic.types"), name))


def _chunk(name: str) -> set[str]:
    return set(getattr(sdks.quietly("openai.types.chat.chat_completion_chunk"), name).model_fields)


def _google(name: str) -> set[str]:
    return aliases(getattr(sdks.quietly("google.genai.types"), name))


TABLES: Final = [
    ("responses", "events", RESPONSES, lambda: _responses("ResponseStreamEvent")),
    ("responses", "items", ITEMS, lambda: _responses("ResponseOutputItem")),
    ("anthropic", "events", ANTHROPIC, lambda: _anthropic("RawMessageStreamEvent")),
    ("anthropic", "blocks", BLOCKS, lambda: _anthropic("ContentBlock")),
    ("anthropic", "deltas", DELTAS, lambda: _anthropic("RawContentBlockDelta")),
    ("chat_completions", "fields of a chunk", CHUNK, lambda: _chunk("ChatCompletionChunk")),
    ("chat_completions", "fields of a choice", CHOICE, lambda: _chunk("Choice")),
    ("chat_completions", "fields of a delta", CHANGE, lambda: _chunk("ChoiceDelta")),
    ("gemini", "fields of a part", PART, lambda: _google("Part")),
    ("gemini", "fields of a call", FUNCTION_CALL, lambda: _google("FunctionCall")),
    ("gemini", "fields of a candidate", CANDIDATE, lambda: _google("Candidate")),
    ("gemini", "fields of an answer", ANSWER, lambda: _google("GenerateContentResponse")),
]


@pytest.mark.parametrize(("dialect", "what", "table", "known"), TABLES, ids=[f"{row[0]}-{row[1]}" for row in TABLES])
def test_all_that_the_sdk_knows_has_an_outcome(dialect: str, what: str, table: Mapping[str, str], known: Any) -> None:
    sdks.sdk(dialect)
    found = known()
    assert len(found) > 3
    assert found - set(table) == set(), f"{what} that have no outcome yet"


# -- the outcomes are true ---------------------------------------------------------------------------------------------


def frame(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def told(dialect: str, *events: dict[str, Any]) -> list[Piece]:
    """What comes out at once; a failure that the stream names is told as well."""
    parser = PARSERS[dialect]("m")
    pieces: list[Piece] = []
    try:
        for event in events:
            pieces += parser.feed(frame(event))
        if parser.is_whole:
            pieces += parser.end()
    except ProviderError:
        return [Delta("failed")]
    return pieces


def shows(pieces: Iterable[Piece]) -> bool:
    return any(isinstance(piece, (Delta, Thinking, ToolInput, ToolUse)) for piece in pieces)


def event_of(kind: str) -> list[dict[str, Any]]:
    """One event of the kind with something in it, after what comes before it."""
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    added = {"type": "response.output_item.added", "output_index": 0, "item": item}
    fields = {"delta": "x", "text": "x", "refusal": "x", "arguments": "{}", "output_index": 0, "content_index": 0}
    if kind.startswith("response.output_item."):
        return [{"type": kind, "output_index": 0, "item": item}]
    if kind.endswith((".completed", ".incomplete", ".failed")) and kind.count(".") == 1:
        response = {"error": {"code": "server_error"}, "incomplete_details": {"reason": "steered"}}
        return [{"type": kind, "response": response}]
    if kind.startswith("response.function_call_arguments"):
        pieces = [added, {"type": "response.function_call_arguments.delta", **fields, "delta": "{}"}]
        return pieces if kind.endswith("delta") else [*pieces, {"type": kind, **fields}]
    if kind in ("response.output_text.done", "response.refusal.done"):
        return [{"type": kind.replace("done", "delta"), **fields}, {"type": kind, **fields}]
    return [{"type": kind, **fields}]


@pytest.mark.parametrize("kind", RESPONSES)
def test_an_event_of_responses_has_the_outcome_it_says(kind: str) -> None:
    *before, event = event_of(kind)
    if kind.endswith("done") and RESPONSES[kind] == REPEATED:
        assert told("responses", *before, event) == told("responses", *before)
    else:
        assert shows(told("responses", *before, event)) is RESPONSES[kind].startswith("told")


@pytest.mark.parametrize("kind", ITEMS)
def test_an_item_of_responses_has_the_outcome_it_says(kind: str) -> None:
    item = {"type": kind, "call_id": "c", "name": "f", "arguments": "{}", "content": [{"text": "x"}]}
    before, after = ("added", "done") if kind == "reasoning" else ("done", "done")
    events = [{"type": f"response.output_item.{when}", "output_index": 0, "item": item} for when in (before, after)]
    assert shows(told("responses", *events)) is (ITEMS[kind] == TOLD)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_of_anthropic_has_the_outcome_it_says(kind: str) -> None:
    block = {"type": kind, "text": "x", "thinking": "x", "id": "c", "name": "f", "input": {"a": 1}, "data": "x"}
    pieces = told("anthropic", {"type": "content_block_start", "index": 0, "content_block": block})
    assert shows(pieces) is (BLOCKS[kind] == TOLD)


@pytest.mark.parametrize("kind", DELTAS)
def test_a_delta_of_anthropic_has_the_outcome_it_says(kind: str) -> None:
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "c", "name": "f"}}
    change = {"type": kind, "text": "x", "thinking": "x", "partial_json": "{}", "signature": "x", "citation": {}}
    before = told("anthropic", start)
    after = told("anthropic", start, {"type": "content_block_delta", "index": 0, "delta": change})
    assert (len(after) > len(before)) is (DELTAS[kind] == TOLD)


VALUES: Final = {"text": "x", "thought": True, "functionCall": {"name": "f"}, "thoughtSignature": "x"}


@pytest.mark.parametrize("field", PART)
def test_a_part_of_gemini_has_the_outcome_it_says(field: str) -> None:
    pieces = told("gemini", {"candidates": [{"content": {"parts": [{field: VALUES.get(field, {"x": "y"})}]}}]})
    assert shows(pieces) is (PART[field] == TOLD and field != "thoughtSignature")


# -- reasons and codes -------------------------------------------------------------------------------------------------


def test_every_reason_to_stop_is_known() -> None:
    sdks.sdk("anthropic")
    reasons = set(typing.get_args(sdks.quietly("anthropic.types").StopReason))
    assert reasons - set(anthropic.FINISHES) == set()
    chunk = sdks.quietly("openai.types.chat.chat_completion_chunk")
    assert literals(chunk.Choice.model_fields["finish_reason"].annotation) - set(chat_completions.FINISHES) == set()
    response = sdks.quietly("openai.types.responses.response")
    reasons = literals(response.IncompleteDetails.model_fields["reason"].annotation)
    assert reasons - set(responses.INCOMPLETE) == {"steered"}  # over a WebSocket only: not the whole answer


STOPS: Final = {"STOP", "OTHER", "IMAGE_OTHER", "NO_IMAGE", "FINISH_REASON_UNSPECIFIED", "PUP_LIMITED_DISABLED"}
"""Reasons of Gemini's that stand in neither table: text that came with them is an answer; the last one is a refusal of
the account, tested in test_faults."""


def test_every_finish_reason_of_gemini_is_known() -> None:
    sdks.sdk("gemini")
    reasons = {reason.value for reason in sdks.quietly("google.genai.types").FinishReason}
    assert reasons - set(gemini.FINISHES) - set(gemini.FAILURES) - STOPS == set()


PASSING: Final = {"server_error", "vector_store_timeout"}


def test_every_error_code_of_a_response_says_whose_fault_it_is() -> None:
    sdks.sdk("responses")
    error = sdks.quietly("openai.types.responses.response_error").ResponseError
    codes = literals(error.model_fields["code"].annotation)
    assert len(codes) > 10
    assert codes - set(WORDS) - PASSING == set()
    for code in PASSING:
        assert mid_stream_failure(Fault(code=code)).retryable
