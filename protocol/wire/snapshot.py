"""A log summed up: text and thinking so far, tool calls, data, and the end if there is one. Knows no reader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenrelay.protocol import events
from tokenrelay.protocol.events import Completion, Data, Failure, Thinking, Token, ToolCall, ToolResult, Usage
from tokenrelay.protocol.store.entries import TOKEN, Entry, event_of
from tokenrelay.protocol.wire import event_json


class Snapshot:
    """Grows by entries in order; every field can be read at any time."""

    def __init__(self, last_id: int = 0) -> None:
        self.last_id = last_id
        self._texts: list[str] = []
        self._thoughts: list[str] = []  # only where the request asked to be shown them
        self._data: list[dict[str, Any]] = []
        self._calls: dict[str, dict[str, Any]] = {}  # by tool_call_id, in order
        self.completion: Completion | None = None
        self.failure: Failure | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def thinking(self) -> str:
        """What the model thought, where the request asked to be shown it."""
        return "".join(self._thoughts)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        return list(self._calls.values())

    @property
    def usage(self) -> Usage | None:
        """Tokens of the whole answer, or of a failed one so far; None while nobody knows."""
        if self.failure is not None:
            return self.failure.usage
        end = self.completion
        return None if end is None else end.usage or events.usage(end.input_tokens, end.output_tokens)

    def _told(self) -> dict[str, Any]:
        """What only some answers have."""
        told: dict[str, Any] = {}
        if self._thoughts:
            told["thinking"] = self.thinking
        if self._data:
            told["data"] = self._data
        end = self.completion or self.failure
        if end is not None and end.cost_usd is not None:
            told["cost_usd"] = end.cost_usd
        return told

    @property
    def has_ended(self) -> bool:
        return self.completion is not None or self.failure is not None

    def take(self, first_id: int, entries: Iterable[Entry]) -> None:
        """The next entries. Raises LookupError when they do not follow the last ones, CorruptEntry for what is none."""
        if first_id != self.last_id + 1:
            raise LookupError(f"expected entry {self.last_id + 1}, got {first_id}")
        for entry in entries:
            self.last_id += 1
            self._take(entry)

    def pass_on(self, entry_id: int, entry: Entry) -> str:
        """The next entry, or several joined to one with the id of the last. A token's text is given back, not kept."""
        self.last_id = entry_id
        if entry[0] == TOKEN:
            text: str = entry[3]
            return text
        self._take(entry)
        return ""

    def _take(self, entry: Entry) -> None:
        if entry[0] == TOKEN:
            self._texts.append(entry[3])
            return
        match event := event_of(entry):
            case Token():
                self._texts.append(event.text)
            case Thinking():
                self._thoughts.append(event.text)
            case Data():
                self._data.append({"data_name": event.name, "data": event.value})
            case ToolCall():
                self._calls[event.call_id] = _call(event)
            case ToolResult():
                call = self._calls.setdefault(event.call_id, _call(event))
                call["tool_result"] = event.result
                if event.failed:
                    call["tool_error"] = True
            case Completion():
                self.completion = event
            case Failure():
                self.failure = event

    def answer(self, stream_id: str) -> dict[str, Any]:
        """The JSON of a whole answer (`POST /api/chat` without `stream`); only once it has a completion."""
        end = self.completion
        if end is None:
            raise LookupError("the answer has no completion")
        return {
            "response": self.text,
            "model": end.model,
            "resolved_model": end.resolved_model,
            "provider": end.provider,
            "finish_reason": end.finish_reason,
            "total_tokens": end.input_tokens + end.output_tokens,
            "input_tokens": end.input_tokens,
            "output_tokens": end.output_tokens,
            "response_time": end.response_time_s,
            "stream_id": stream_id,
            "tool_calls": self.tool_calls,
            **event_json.extras(end, "attempts", "left_out", "timing"),
            "usage": self.usage,
            **self._told(),
        }

    def state(self, stream_id: str, public_state: str, model: str) -> dict[str, Any]:
        """The JSON of a stream as it stands (`GET /api/streams/{id}`, `Accept: application/json`)."""
        end, failure = self.completion, self.failure
        error: dict[str, Any] | None = None
        if failure is not None:
            error = {"error": failure.message, "error_code": failure.code, "retryable": failure.retryable}
            error |= event_json.extras(failure, "field")
        return {
            "stream_id": stream_id,
            "state": public_state,
            "model": model,
            "text": self.text,
            "last_event_id": self.last_id,
            "tool_calls": self.tool_calls,
            "finish_reason": end.finish_reason if end else None,
            "resolved_model": end.resolved_model if end else None,
            "provider": end.provider if end else None,
            "response_time": end.response_time_s if end else None,
            "usage": self.usage,
            "error": error,
            **self._told(),
        }


def _call(event: ToolCall | ToolResult) -> dict[str, Any]:
    told: dict[str, Any] = {"tool_name": event.name, "tool_input": event.input, "tool_call_id": event.call_id}
    if isinstance(event, ToolCall) and event.own is not None:
        told["own"] = event.own
    return told
