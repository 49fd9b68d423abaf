"""The AI SDK's UI message stream (`useChat`) over our log: body to request, entries to chunks.

A chunk depends on what stood before it (a text is begun and ended), so each reader folds the log from its start.
Source: npm `ai` 5, 6 and 7, `src/ui/http-chat-transport.ts`, `src/ui-message-stream/ui-message-chunks.ts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.events import Completion, Data, Event, Failure, Started, Thinking, Token, ToolCall, ToolResult
from tokenrelay.protocol.events import ToolInput as ToolInputEvent
from tokenrelay.protocol.fronts.asked import Asked, Remembered
from tokenrelay.protocol.fronts.names import Names, Turn, checked
from tokenrelay.protocol.fronts.openai import decode, frame
from tokenrelay.protocol.store.entries import Entry, event_of
from tokenrelay.protocol.wire import event_json
from tokenrelay.protocol.wire.parts import Bounds
from tokenrelay.protocol.wire.request import DEFAULT_BOUNDS, ChatRequest

DIALECT: Final = "ui"
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}
TRIGGERS: Final = frozenset({"submit-message", "regenerate-message"})

TEXT_ID: Final = "t"
"""The part's name in the stream. It may come again: clients look it up among the parts that are open."""

REASONING_ID: Final = "r"
FINISH_REASONS: Final = {
    "stop": "stop", "length": "length", "tool_calls": "tool-calls", "content_filter": "content-filter",
}  # fmt: skip
MAX_CHAT_ID: Final = 1_000
INSIDE: Final = {
    ".tool_call_id": ".toolCallId", ".id": ".toolCallId", ".function.name": ".toolName",
    ".function.arguments": ".input", ".image_url.url": ".url", ".file": "", ".file.file_data": ".url",
    ".file.file_url": ".url",
}  # fmt: skip
"""Behind a turn, a part or a call of ours, and behind a part of the chat's."""


_OURS: Final = frozenset(ChatRequest.__struct_fields__) - {"message", "prompt", "messages", "stream"}


class UiAsked(msgspec.Struct, frozen=True):
    """A body that was understood, and which chat it belongs to."""

    asked: Asked
    chat_id: str

    @property
    def request(self) -> ChatRequest:
        return self.asked.request


def is_ours(body: Any) -> bool:
    """True for what `useChat` sends, false for a request of our own: told by `trigger` and by messages with parts."""
    if not isinstance(body, dict) or body.get("trigger") not in TRIGGERS:
        return False
    messages = body.get("messages")
    return isinstance(messages, list) and all(isinstance(turn, dict) and "parts" in turn for turn in messages)


def parse(raw: bytes, *, now_s: int, bounds: Bounds = DEFAULT_BOUNDS) -> UiAsked:
    """A body as a request. Raises TokenrelayError INVALID_REQUEST, VALIDATION_ERROR."""
    body = decode(raw)
    chat_id, messages = body.get("id"), body.get("messages")
    if not isinstance(chat_id, str) or not 1 <= len(chat_id) <= MAX_CHAT_ID:
        raise _fault("id", f"expected the chat's id, a text of 1 to {MAX_CHAT_ID} characters")
    if not isinstance(messages, list) or not messages:
        raise _fault("messages", "expected the chat's messages")
    ours = {name: value for name, value in body.items() if name in _OURS and value is not None}
    turns = [turn for number, message in enumerate(messages) for turn in _turns(number, message)]
    ours["messages"] = [turn for turn, _ in turns]
    ours["stream"] = True
    ours.setdefault("show", ["thinking", "tool_input"])
    own: list[Any] = []
    if isinstance(ours.get("tools"), list):
        ours["tools"] = [_own(tool) for tool in ours["tools"]]
        own = [tool["function"].get("name") for tool in ours["tools"] if isinstance(tool, dict) and tool.get("own")]
    last = messages[-1]
    options: dict[str, Any] = {"own": own}
    if isinstance(last, dict) and last.get("role") == "assistant" and isinstance(last.get("id"), str):
        options["message_id"] = last["id"]  # a tool's result comes back: the answer goes on in that message
    asked_for = body.get("stream_options")
    with_usage = isinstance(asked_for, dict) and asked_for.get("include_usage") is True
    names = Names(turns=[place for _, place in turns], inside=INSIDE)
    remembered = Remembered(DIALECT, now_s, with_usage, options=options, names=names.kept())
    return UiAsked(Asked(checked(ours, bounds, names), remembered, names), chat_id)


def _own(tool: Any) -> Any:
    """A declared function is the caller's own."""
    if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
        return {**tool, "type": "function", "own": True}
    return tool


def _fault(field: str, issue: str) -> TokenrelayError:
    return TokenrelayError("VALIDATION_ERROR", f"{field}: {issue}", field=field, issue=issue)


# -- messages ----------------------------------------------------------------------------------------------------------


Placed = tuple[dict[str, Any], Turn]
"""A turn, and where it stands in the chat's messages."""


def _turns(number: int, message: Any) -> Iterator[Placed]:
    field = f"messages[{number}]"
    if not isinstance(message, dict) or not isinstance(message.get("parts"), list):
        raise _fault(field, "expected a message with parts")
    parts, role = message["parts"], message.get("role")
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise _fault(f"{field}.parts[{index}]", "expected an object with a type")
    match role:
        case "system":
            yield {"role": "system", "content": _text(parts)}, Turn(field, f"{field}.parts")
        case "user":
            content, kept = _user_content(parts)
            place = Turn(field, f"{field}.parts", [f"{field}.parts[{index}]" for index in kept])
            yield {"role": "user", "content": content}, place
        case "assistant":
            yield from _assistant_turns(parts, field)
        case _:
            raise _fault(f"{field}.role", "expected system, user or assistant")


def _text(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text" and isinstance(part.get("text"), str))


def _user_content(parts: list[dict[str, Any]]) -> tuple[str | list[dict[str, Any]], list[int]]:
    """And which of the parts are in it, where it is a list."""
    if all(part["type"] != "file" for part in parts):
        return _text(parts), []
    made: list[dict[str, Any]] = []
    kept: list[int] = []
    for index, part in enumerate(parts):
        if part["type"] == "text" and part.get("text"):
            made.append({"type": "text", "text": part["text"]})
            kept.append(index)
        elif part["type"] == "file":
            made.append(_file(part))
            kept.append(index)
    return made, kept


def _file(part: dict[str, Any]) -> dict[str, Any]:
    """`{mediaType, url, filename}` as a part of ours; `url` is a `data:` URL or https."""
    media_type, url = str(part.get("mediaType") or ""), part.get("url")
    if media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    where = "file_data" if isinstance(url, str) and url.startswith("data:") else "file_url"
    named = {"filename": part["filename"]} if part.get("filename") else {}
    return {"type": "file", "file": {**named, where: url}}


def _assistant_turns(parts: list[dict[str, Any]], field: str) -> Iterator[Placed]:
    """A turn for each step: its text, its calls of the caller's functions, and a turn for what each of them gave."""
    begin = 0
    for end, part in enumerate([*parts, {"type": "step-start"}]):
        if part["type"] != "step-start":
            continue
        step = list(enumerate(parts[begin:end], begin))
        calls = [(f"{field}.parts[{index}]", *made) for index, each in step if (made := _call(each)) is not None]
        text = _text([each for _, each in step])
        if calls:
            told = {"content": text} if text else {}
            place = Turn(field, f"{field}.parts", calls=[at for at, _, _ in calls])
            yield {"role": "assistant", **told, "tool_calls": [call for _, call, _ in calls]}, place
            yield from ((result, Turn(at, f"{at}.output")) for at, _, result in calls)
        elif text:
            yield {"role": "assistant", "content": text}, Turn(field, f"{field}.parts")
        begin = end + 1


def _call(part: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A call of a caller's function with its result; None for anything else, and for a call that got no result."""
    kind = part["type"]
    if part.get("providerExecuted") or not (kind == "dynamic-tool" or kind.startswith("tool-")):
        return None
    name = part.get("toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-")
    match part.get("state"):
        case "output-available":
            output = part.get("output")
            result = output if isinstance(output, str) else event_json.to_json(output)
        case "output-error":
            result = str(part.get("errorText") or "the tool failed")
        case _:
            return None
    arguments = part.get("input") if isinstance(part.get("input"), dict) else {}
    call_id = part.get("toolCallId")
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": event_json.to_json(arguments)},
    }
    return call, {"role": "tool", "tool_call_id": call_id, "content": result}


# -- entries as chunks -------------------------------------------------------------------------------------------------


class Fold:
    """One reader's way through a log from its start."""

    def __init__(self, stream_id: str, remembered: Remembered) -> None:
        self._message_id = remembered.options.get("message_id") or f"msg_{stream_id}"
        self._own = frozenset(remembered.options.get("own") or ())
        self._with_usage = remembered.with_usage
        self._names = Names(remembered.names)
        self._open: Literal["text", "reasoning", ""] = ""  # the part that is under way
        self._was_result = False  # a tool has answered: what follows is a new step
        self._announced = set[str]()  # calls whose arguments are shown as they are written

    def take(self, entry: Entry, _: int) -> bytes:
        """The next entry's chunks. Raises CorruptEntry."""
        event = event_of(entry)
        body = b"".join(map(frame, self._chunks(event)))
        return body + DONE if isinstance(event, (Completion, Failure)) else body

    def _chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case Started():
                yield {"type": "start", "messageId": self._message_id}
                yield {"type": "start-step"}
            case Token():
                yield from self._part("text", TEXT_ID, event.text)
            case Thinking():
                yield from self._part("reasoning", REASONING_ID, event.text)
            case ToolInputEvent():
                yield from self._tool_input(event)
            case ToolCall():
                yield from self._close()
                yield from self._new_step()
                yield {
                    "type": "tool-input-available", "toolCallId": event.call_id, "toolName": event.name,
                    "input": event.input, **_executed(is_own=event.own is not None),
                }  # fmt: skip
            case ToolResult():
                yield from self._close()
                yield _result(event)
                self._was_result = True
            case Data():
                yield {"type": f"data-{event.name}", "data": event.value}
            case Completion():
                yield from self._close()
                if event.finish_reason == "cancelled":
                    yield {"type": "abort"}
                    return
                yield {"type": "finish-step"}
                told = {"messageMetadata": {"usage": usage_object(event)}} if self._with_usage else {}
                yield {"type": "finish", "finishReason": FINISH_REASONS[event.finish_reason], **told}
            case Failure():
                yield from self._close()
                message = self._names.told(event.message, event.field) if event.field else event.message
                yield {"type": "error", "errorText": message}

    def _part(self, kind: Literal["text", "reasoning"], part_id: str, text: str) -> Iterator[dict[str, Any]]:
        yield from self._new_step()
        if self._open != kind:
            yield from self._close()
            yield {"type": f"{kind}-start", "id": part_id}
            self._open = kind
        yield {"type": f"{kind}-delta", "id": part_id, "delta": text}

    def _tool_input(self, event: ToolInputEvent) -> Iterator[dict[str, Any]]:
        yield from self._close()
        yield from self._new_step()
        if event.name and event.call_id not in self._announced:
            self._announced.add(event.call_id)
            executed = _executed(is_own=event.name in self._own)
            yield {"type": "tool-input-start", "toolCallId": event.call_id, "toolName": event.name, **executed}
        if event.text and event.call_id in self._announced:
            yield {"type": "tool-input-delta", "toolCallId": event.call_id, "inputTextDelta": event.text}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open:
            yield {"type": f"{self._open}-end", "id": TEXT_ID if self._open == "text" else REASONING_ID}
            self._open = ""

    def _new_step(self) -> Iterator[dict[str, Any]]:
        if self._was_result:
            self._was_result = False
            yield {"type": "finish-step"}
            yield {"type": "start-step"}


def _executed(*, is_own: bool) -> dict[str, Any]:
    """A tool of ours has run already: the client only shows it."""
    return {} if is_own else {"providerExecuted": True, "dynamic": True}


def _result(event: ToolResult) -> dict[str, Any]:
    if event.failed:
        told = {"type": "tool-output-error", "toolCallId": event.call_id, "errorText": event.result}
    else:
        told = {"type": "tool-output-available", "toolCallId": event.call_id, "output": event.result}
    return {**told, **_executed(is_own=False)}


_COUNTS: Final = {
    "cached_input_tokens": "cachedInputTokens", "cache_write_tokens": "cacheWriteTokens",
    "reasoning_tokens": "reasoningTokens",
}  # fmt: skip


def usage_object(end: Completion) -> dict[str, Any]:
    """As the AI SDK names them; an app that wants it in its messages' metadata asks by `stream_options`."""
    known = end.usage or {}
    made: dict[str, Any] = {
        "inputTokens": end.input_tokens,
        "outputTokens": end.output_tokens,
        "totalTokens": end.input_tokens + end.output_tokens,
        **{theirs: known[ours] for ours, theirs in _COUNTS.items() if ours in known},
    }
    if end.cost_usd is not None:
        made["costUsd"] = end.cost_usd
    return made
