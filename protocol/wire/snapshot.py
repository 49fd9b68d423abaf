"""A log folded into what it amounts to: the text so far, tool calls, the end if there is one. Knows no reader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenrelay.protocol.events import Completion, Failure, Token, ToolCall, ToolResult
from tokenrelay.protocol.store.entries import TOKEN, Entry, event_of


class Snapshot:
    """Grows by entries in order; every field can be read at any time."""

    def __init__(self) -> None:
        self.last_id = 0
        self._texts: list[str] = []
        self._calls: dict[str, dict[str, Any]] = {}  # by tool_call_id, in order
        self.completion: Completion | None = None
        self.failure: Failure | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        return list(self._calls.values())

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

    def _take(self, entry: Entry) -> None:
        if entry[0] == TOKEN:
            self._texts.append(entry[3])
            return
        match event := event_of(entry):
            case Token():
                self._texts.append(event.text)
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
        told = {name: value for name in ("attempts", "left_out", "timing") if (value := getattr(end, name))}
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
            **told,
        }

    def state(self, stream_id: str, public_state: str, model: str) -> dict[str, Any]:
        """The JSON of a stream as it stands (`GET /api/streams/{id}`, `Accept: application/json`)."""
        end, failure = self.completion, self.failure
        usage = None
        if end is not None:
            usage = {
                "input_tokens": end.input_tokens,
                "output_tokens": end.output_tokens,
                "total_tokens": end.input_tokens + end.output_tokens,
            }
        error = None
        if failure is not None:
            error = {"error": failure.message, "error_code": failure.code, "retryable": failure.retryable}
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
            "usage": usage,
            "error": error,
        }


def _call(event: ToolCall | ToolResult) -> dict[str, Any]:
    return {"tool_name": event.name, "tool_input": event.input, "tool_call_id": event.call_id}
