"""A compiled graph of LangGraph as a handler: its stream as parts. Needs `tokenrelay[langgraph]`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from tokenrelay.agent.adapters import Handler, Joined, refusals, text_of
from tokenrelay.agent.parts import Alive, Ask, Data, Part, Thinking, ToolCall, ToolResult, Usage

MODES: Final = ("messages", "custom", "updates")


def langgraph(
    graph: Any,
    *,
    input: Callable[[Ask], Any] | None = None,  # noqa: A002  LangGraph's own name for it
    config: Callable[[Ask], Any] | None = None,
) -> Handler:
    """A handler that runs this compiled graph. `input` is its state, `{"messages": […]}` if left out; `config` its
    configuration, of which a `thread_id` of this start of the stream is the least.

    What models write is text, as they write it; calls and results of tools come with the updates of their nodes. What
    a node gives to `get_stream_writer()` is told: a part as it is, anything else as data named `custom`.
    """

    async def handler(ask: Ask) -> AsyncIterator[str | Part]:
        state = {"messages": [dict(message) for message in ask.messages]} if input is None else input(ask)
        thread = {"configurable": {"thread_id": f"{ask.stream_id}.{ask.attempt}"}}
        options = thread if config is None else config(ask)
        parts = _Parts()
        with refusals():
            async for mode, payload in graph.astream(state, options, stream_mode=list(MODES)):
                for part in parts.of(mode, payload):
                    yield part

    return handler


class _Parts:
    """One run's."""

    def __init__(self) -> None:
        self._texts = Joined()
        self._message: Any = None  # the id of the one whose text was told last
        self._calls = set[str]()
        self._results = set[str]()

    def of(self, mode: str, payload: Any) -> Iterator[str | Part]:
        if mode == "messages":
            yield from self._written(payload[0])
        elif mode == "custom":
            yield payload if isinstance(payload, (str, Part)) else Data("custom", payload)
        else:
            yield Alive()
            for node, update in payload.items():
                if node == "__interrupt__":
                    yield from (Data("interrupt", each.value) for each in update)
                else:
                    for message in _messages_in(update):
                        yield from self._updated(message)

    def _written(self, message: Any) -> Iterator[Part]:
        """A piece of what a model writes; other messages come with the updates."""
        if message.type not in ("ai", "AIMessageChunk"):
            return
        if message.id != self._message:
            self._message = message.id
            self._texts.begin()
        thought = _thought_in(message)
        if thought:
            yield Thinking(thought)
        text = text_of(message.content)
        yield from self._texts.take(text)
        if not text and not thought:
            yield Alive()

    def _updated(self, message: Any) -> Iterator[Part]:
        if message.type == "tool":
            if message.tool_call_id in self._calls - self._results:
                self._results.add(message.tool_call_id)
                yield ToolResult(message.tool_call_id, text_of(message.content), message.status == "error")
        elif message.type == "ai":
            for call in message.tool_calls:
                if call["id"] not in self._calls:
                    self._calls.add(call["id"])
                    yield ToolCall(call["id"], call["name"], call["args"])
            if (used := message.usage_metadata) is not None:
                cached = used.get("input_token_details", {}).get("cache_read")
                yield Usage(used["input_tokens"], used["output_tokens"], cached)


def _messages_in(update: Any) -> Iterator[Any]:
    """Of a node's update: of its state's messages, those that it has added."""
    for each in update if isinstance(update, list) else [update]:
        found = each.get("messages") if isinstance(each, dict) else None
        for message in found if isinstance(found, list) else [found]:
            if hasattr(message, "type"):
                yield message


def _thought_in(message: Any) -> str:
    """As the providers' packages tell it: a block of the content, or beside it."""
    blocks = message.content if isinstance(message.content, list) else []
    said = [
        str(block.get(block["type"]) or "")
        for block in blocks
        if isinstance(block, dict) and block.get("type") in ("thinking", "reasoning")
    ]
    return "".join(said) or str(message.additional_kwargs.get("reasoning_content") or "")
