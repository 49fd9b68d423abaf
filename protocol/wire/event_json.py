"""An entry as the JSON object a client gets, the same over SSE and WebSocket. Knows no transport."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from tokenrelay.protocol.events import (
    Completion,
    Data,
    Event,
    Failure,
    Started,
    Thinking,
    ThinkingStarted,
    Token,
    ToolCall,
    ToolInput,
    ToolResult,
    Unknown,
)
from tokenrelay.protocol.store.entries import THINKING, TOKEN, Entry, event_of


@lru_cache(maxsize=64)
def timestamp(at_ms: int) -> str:
    """ISO 8601, UTC, milliseconds, `Z`. Cached: under load many tokens share a millisecond."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False)
"""`json.dumps` with these arguments makes one for every call."""


def to_json(value: Any) -> str:
    """Compact, one line, non-ASCII escaped: survives clients that split it anywhere between bytes."""
    return _ENCODER.encode(value)


def accepted_data(stream_id: str, model: str, at_ms: int) -> dict[str, Any]:
    """The edge's own first word; it is not in the log and has no id."""
    return {
        "token": "",
        "done": False,
        "status": "queued",
        "stream_id": stream_id,
        "model": model,
        "timestamp": timestamp(at_ms),
    }


def data_of(entry: Entry, stream_id: str) -> dict[str, Any]:
    """The object a client gets for an entry, over either transport. Raises CorruptEntry."""
    event = event_of(entry)
    data = _FIELDS[type(event)](event, stream_id)
    data["timestamp"] = timestamp(event.at_ms)
    return data


def _started(event: Started, _: str) -> dict[str, Any]:
    data: dict[str, Any] = {"token": "", "done": False, "status": "started", "model": event.model}
    if event.routing is not None:
        data["routing"] = event.routing
    return data


def _token(event: Token, _: str) -> dict[str, Any]:
    return {"token": event.text, "done": False, "model": event.model}


def _thinking_started(event: ThinkingStarted, _: str) -> dict[str, Any]:
    return {"token": "", "done": False, "status": "thinking", "model": event.model}


def _thinking(event: Thinking, _: str) -> dict[str, Any]:
    return {"thinking": event.text, "token": "", "done": False, "model": event.model}


def _tool_input(event: ToolInput, _: str) -> dict[str, Any]:
    data = {"tool_call_id": event.call_id, "tool_input_delta": event.text}
    if event.name:
        data["tool_input_name"] = event.name
    return {**data, "token": "", "done": False, "model": event.model}


def _tool(event: ToolCall | ToolResult) -> dict[str, Any]:
    return {
        "tool_name": event.name,
        "tool_input": event.input,
        "tool_call_id": event.call_id,
        "token": "",
        "done": False,
        "model": event.model,
    }


def _tool_call(event: ToolCall, _: str) -> dict[str, Any]:
    data = _tool(event)
    if event.own is not None:
        data["own"] = event.own
    return data


def _tool_result(event: ToolResult, _: str) -> dict[str, Any]:
    data = _tool(event)
    data["tool_result"] = event.result
    if event.failed:
        data["tool_error"] = True
    return data


def _data(event: Data, _: str) -> dict[str, Any]:
    return {"data_name": event.name, "data": event.value, "token": "", "done": False, "model": event.model}


def _unknown(_: Unknown, __: str) -> dict[str, Any]:
    return {"token": "", "done": False}


def _completion(event: Completion, stream_id: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "token": "",
        "done": True,
        "total_tokens": event.input_tokens + event.output_tokens,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "finish_reason": event.finish_reason,
        "response_time": event.response_time_s,
        "model": event.model,
        "resolved_model": event.resolved_model,
        "provider": event.provider,
        "stream_id": stream_id,
    }
    data.update(extras(event, "attempts", "left_out", "timing", "usage"))
    if event.cost_usd is not None:
        data["cost_usd"] = event.cost_usd
    return data


def _failure(event: Failure, stream_id: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "token": "",
        "done": True,
        "error": event.message,
        "error_code": event.code,
        "retryable": event.retryable,
        "stream_id": stream_id,
    }
    if event.retry_after_s is not None:
        data["retry_after"] = event.retry_after_s
    data.update(extras(event, "field", "attempts"))
    data.update(used(event))
    return data


def extras(event: Completion | Failure, *names: str) -> dict[str, Any]:
    """Those of an end's optional fields that say something."""
    return {name: value for name in names if (value := getattr(event, name))}


def used(event: Failure) -> dict[str, Any]:
    """What an answer that failed had used, as its event and its JSON tell it; empty where nobody knows."""
    told: dict[str, Any] = {}
    if event.usage:
        told = {name: event.usage[name] for name in _COUNTS if name in event.usage} | {"usage": event.usage}
    return told if event.cost_usd is None else {**told, "cost_usd": event.cost_usd}


_COUNTS: Final = ("total_tokens", "input_tokens", "output_tokens")

_FIELDS: Final[dict[type[Event], Callable[[Any, str], dict[str, Any]]]] = {
    Started: _started,
    Token: _token,
    ThinkingStarted: _thinking_started,
    Thinking: _thinking,
    ToolInput: _tool_input,
    ToolCall: _tool_call,
    ToolResult: _tool_result,
    Data: _data,
    Unknown: _unknown,
    Completion: _completion,
    Failure: _failure,
}
"""What each kind of event tells besides its time; `protocol/README.md` has the table."""


@lru_cache(maxsize=1024)
def _token_tail(model: str) -> str:
    return f',"done":false,"model":{encode_basestring_ascii(model)},"timestamp":"'


def json_of(entry: Entry, stream_id: str) -> str:
    """`to_json(data_of(…))`; the text a model writes takes a short cut that a test keeps equal to the long way."""
    tag = entry[0]
    if tag == TOKEN:
        text = encode_basestring_ascii(entry[3])
        return f'{{"token":{text}{_token_tail(entry[2])}{timestamp(entry[1])}"}}'
    if tag == THINKING:
        text = encode_basestring_ascii(entry[3])
        return f'{{"thinking":{text},"token":""{_token_tail(entry[2])}{timestamp(entry[1])}"}}'
    return to_json(data_of(entry, stream_id))
