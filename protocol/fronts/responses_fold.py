"""A log as the events of OpenAI's Responses, and as its object. Knows no socket.

The numbers of the events are dense and a function of the log alone, so every reader folds the log from its first entry
and is told what lies beyond its cursor.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from tokenrelay.protocol.events import Completion, Failure, Started, Thinking, Token, ToolCall, ToolResult
from tokenrelay.protocol.fronts.asked import Remembered
from tokenrelay.protocol.fronts.names import Names
from tokenrelay.protocol.fronts.responses import FIELD_NAMES, response_object, sse
from tokenrelay.protocol.store.entries import Entry, event_of
from tokenrelay.protocol.wire import event_json

JOIN_PIECES: Final = 64
"""So many pieces of a text become one: each costs some 60 bytes beside its characters."""

ERROR_CODES: Final = {"RATE_LIMIT": "rate_limit_exceeded", "VALIDATION_ERROR": "invalid_prompt"}
INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class Fold:
    """One way through a log from its start. `after` is the number that the reader has; -1: none."""

    def __init__(self, stream_id: str, remembered: Remembered, model: str, after: int = -1) -> None:
        self.output: list[dict[str, Any]] = []
        self.status: Status = "queued" if remembered.options.get("background") else "in_progress"
        self.number = -1  # of the event that was told last
        self._stream_id = stream_id
        self._remembered = remembered
        self._model = model
        self._after = after
        self._told: list[bytes] = []
        self._open: dict[str, Any] | None = None  # the text or the thinking under way
        self._texts: list[str] = []  # of that, the first `_joined` of them many pieces each
        self._joined = 0
        self.characters = 0  # of all that is kept, about
        self._calls: dict[str, int] = {}  # our own tools' calls without a result: call id → output index
        self._known: dict[str, Any] = {}  # usage, error, incomplete_details once there are any

    @property
    def object(self) -> dict[str, Any]:
        """The response as far as the log has been taken."""
        output = [*self.output]
        if self._open is not None:
            output[-1] = self._item_with_text("in_progress")
        return response_object(self._stream_id, self._remembered, self._model, self.status, output, **self._known)

    def begin(self) -> bytes:
        """What stands before the first entry."""
        self._tell("response.created", {"response": self.object})
        if self.status == "queued":
            self._tell("response.queued", {"response": self.object})
        return self._taken()

    def take(self, entry: Entry, _: int) -> bytes:
        """The next entry's events beyond the cursor. Raises CorruptEntry."""
        match event := event_of(entry):
            case Started():
                self.status, self._model = "in_progress", event.model
                self._tell("response.in_progress", {"response": self.object})
            case Token():
                self._text(event.text)
            case Thinking():
                self._thought(event.text)
            case ToolCall() if event.own is not None:
                self._own_call(event)
            case ToolCall():
                self._our_call(event)
            case ToolResult():
                self._result(event)
            case Completion():
                self._complete(event)
            case Failure():
                self._fail(event)
            case _:
                pass
        return self._taken()

    # -- for one who writes the object while the log is read -----------------------------------------------------------

    def settled(self, index: int) -> dict[str, Any] | None:
        """Item `index` once nothing about it changes any more; it is let go."""
        if index >= len(self.output) or index in self._calls.values() or self._is_open(index):
            return None
        item, self.output[index] = self.output[index], {}
        return item

    def under_way(self, index: int) -> dict[str, Any] | None:
        """Item `index` if its text is being written."""
        return self._open if self._is_open(index) else None

    def cut(self) -> str:
        """The text under way since it was cut last, which is let go."""
        text, self._texts, self._joined = "".join(self._texts), [], 0
        return text

    def left(self, index: int) -> list[dict[str, Any]]:
        """The items from `index` on as they are now."""
        return list(self.object["output"][index:])

    def _is_open(self, index: int) -> bool:
        return self._open is not None and index == len(self.output) - 1

    # -- telling -------------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, fields: dict[str, Any]) -> None:
        self.number += 1
        if self.number > self._after:
            self._told.append(sse(kind, self.number, fields))

    def _taken(self) -> bytes:
        told, self._told = self._told, []
        return b"".join(told)

    def _added(self, item: dict[str, Any]) -> int:
        self.output.append(item)
        index = len(self.output) - 1
        self._tell("response.output_item.added", {"output_index": index, "item": item})
        return index

    def _done(self, index: int, item: dict[str, Any]) -> None:
        self.output[index] = item
        self._tell("response.output_item.done", {"output_index": index, "item": item})

    def _item_id(self, kind: str) -> str:
        return f"{kind}_{self._stream_id}_{len(self.output)}"

    # -- text and thinking ---------------------------------------------------------------------------------------------

    def _text(self, text: str) -> None:
        if self._open is None or self._open["type"] != "message":
            self._close()
            self._open = {
                "id": self._item_id("msg"), "type": "message", "status": "in_progress", "role": "assistant",
                "content": [],
            }  # fmt: skip
            self._added(self._open)
            self._tell("response.content_part.added", {**self._place(), "part": _output_text("")})
        self._keep(text)
        self._tell("response.output_text.delta", {**self._place(), "delta": text, "logprobs": []})

    def _thought(self, text: str) -> None:
        if self._open is None or self._open["type"] != "reasoning":
            self._close()
            self._open = {"id": self._item_id("rs"), "type": "reasoning", "status": "in_progress", "summary": []}
            self._added(self._open)
            self._tell("response.reasoning_summary_part.added", {**self._summary(), "part": _summary_text("")})
        self._keep(text)
        self._tell("response.reasoning_summary_text.delta", {**self._summary(), "delta": text})

    def _keep(self, text: str) -> None:
        self.characters += len(text)
        self._texts.append(text)
        if len(self._texts) - self._joined == JOIN_PIECES:
            self._texts[self._joined :] = ["".join(self._texts[self._joined :])]
            self._joined += 1

    def _close(self, status: str = "completed") -> None:
        """End the text or the thinking that is under way."""
        if self._open is None:
            return
        text = "".join(self._texts)
        if self._open["type"] == "message":
            self._tell("response.output_text.done", {**self._place(), "text": text, "logprobs": []})
            self._tell("response.content_part.done", {**self._place(), "part": _output_text(text)})
        else:
            self._tell("response.reasoning_summary_text.done", {**self._summary(), "text": text})
            self._tell("response.reasoning_summary_part.done", {**self._summary(), "part": _summary_text(text)})
        item = self._item_with_text(status)
        self._open, self._texts, self._joined = None, [], 0
        self._done(len(self.output) - 1, item)

    def _item_with_text(self, status: str) -> dict[str, Any]:
        assert self._open is not None  # noqa: S101
        text = "".join(self._texts)
        told = (
            {"content": [_output_text(text)]} if self._open["type"] == "message" else {"summary": [_summary_text(text)]}
        )
        return {**self._open, "status": status, **told}

    def _place(self) -> dict[str, Any]:
        return {**self._item_place(), "content_index": 0}

    def _summary(self) -> dict[str, Any]:
        return {**self._item_place(), "summary_index": 0}

    def _item_place(self) -> dict[str, Any]:
        assert self._open is not None  # noqa: S101
        return {"item_id": self._open["id"], "output_index": len(self.output) - 1}

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _own_call(self, event: ToolCall) -> None:
        self._close()
        arguments = event_json.to_json(event.input)
        self.characters += len(arguments)
        item = {
            "id": self._item_id("fc"), "type": "function_call", "status": "in_progress", "call_id": event.call_id,
            "name": event.name, "arguments": "",
        }  # fmt: skip
        index = self._added(item)
        place = {"item_id": item["id"], "output_index": index}
        self._tell("response.function_call_arguments.delta", {**place, "delta": arguments})
        self._tell("response.function_call_arguments.done", {**place, "name": event.name, "arguments": arguments})
        self._done(index, {**item, "status": "completed", "arguments": arguments})

    def _our_call(self, event: ToolCall) -> None:
        self._close()
        server, dot, _ = event.name.rpartition(".")
        arguments = event_json.to_json(event.input)
        self.characters += len(arguments)
        item: dict[str, Any] = {
            "id": self._item_id("mcp"), "type": "mcp_call", "status": "in_progress",
            "server_label": server if dot else "tokenrelay", "name": event.name, "arguments": "", "output": None,
            "error": None,
        }  # fmt: skip
        index = self._added(item)
        self._calls[event.call_id] = index
        place = {"item_id": item["id"], "output_index": index}
        self._tell("response.mcp_call.in_progress", place)
        self._tell("response.mcp_call_arguments.delta", {**place, "delta": arguments})
        self._tell("response.mcp_call_arguments.done", {**place, "arguments": arguments})
        self.output[index] = {**item, "arguments": arguments}

    def _result(self, event: ToolResult) -> None:
        self.characters += len(event.result)
        index = self._calls.pop(event.call_id, None)
        if index is None:
            return
        self._close()
        item = self.output[index]
        place = {"item_id": item["id"], "output_index": index}
        if event.failed:
            self._tell("response.mcp_call.failed", place)
            content = [{"type": "text", "text": event.result}]
            error = {"type": "mcp_tool_execution_error", "content": content}
            self._done(index, {**item, "status": "failed", "error": error})
        else:
            self._tell("response.mcp_call.completed", place)
            self._done(index, {**item, "status": "completed", "output": event.result})

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _complete(self, event: Completion) -> None:
        reason = event.finish_reason
        is_whole = reason in ("stop", "tool_calls")
        self._close("completed" if is_whole else "incomplete")
        self._drop_calls()
        self._known["usage"] = usage_object(event)
        if is_whole:
            self.status = "completed"
        elif reason == "cancelled":
            self.status = "cancelled"
        else:
            self.status = "incomplete"
            self._known["incomplete_details"] = {"reason": INCOMPLETE[reason]}
        # Neither SDK has an event for a cancelled response, and one throws at an event that it does not know.
        self._tell("response.completed" if is_whole else "response.incomplete", {"response": self.object})

    def _fail(self, event: Failure) -> None:
        self._close("incomplete")
        self._drop_calls()
        self.status = "failed"
        names = Names(FIELD_NAMES | self._remembered.names)
        message = names.told(event.message, event.field) if event.field else event.message
        self._known["error"] = {"code": ERROR_CODES.get(event.code, "server_error"), "message": message}
        self._tell("response.failed", {"response": self.object})

    def _drop_calls(self) -> None:
        """A call that got no result is told as incomplete."""
        for index in self._calls.values():
            self._done(index, {**self.output[index], "status": "incomplete"})
        self._calls.clear()


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary_text(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def usage_object(end: Completion) -> dict[str, Any]:
    """`usage` with its details; what the provider did not tell is 0 there."""
    known = end.usage or {}
    made: dict[str, Any] = {
        "input_tokens": end.input_tokens,
        "input_tokens_details": {
            "cached_tokens": known.get("cached_input_tokens", 0),
            "cache_write_tokens": known.get("cache_write_tokens", 0),
        },
        "output_tokens": end.output_tokens,
        "output_tokens_details": {"reasoning_tokens": known.get("reasoning_tokens", 0)},
        "total_tokens": end.input_tokens + end.output_tokens,
    }
    if end.cost_usd is not None:
        made["cost_usd"] = end.cost_usd
    return made
