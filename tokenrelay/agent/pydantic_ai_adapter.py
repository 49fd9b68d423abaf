"""An agent of pydantic-ai as a handler: its run's events as parts. Needs `tokenrelay[pydantic-ai]`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from tokenrelay.agent.adapters import Handler, Joined, refusals, text_of
from tokenrelay.agent.parts import Alive, Ask, Data, Message, Part, Thinking, ToolCall, ToolResult, Usage


def pydantic_ai(agent: Any, *, deps: Callable[[Ask], Any] | None = None) -> Handler:
    """A handler that runs this `pydantic_ai.Agent` with the conversation. `deps` makes the run's dependencies.

    Tools of the agent run in it and are told. An output that is no text is told as data named `output`.
    """

    async def handler(ask: Ask) -> AsyncIterator[str | Part]:
        prompt, history = _conversation(ask.messages)
        options: dict[str, Any] = {} if deps is None else {"deps": deps(ask)}
        if ask.max_tokens is not None:
            options["model_settings"] = {"max_tokens": ask.max_tokens}
        parts = _Parts()
        with refusals():
            async with agent.run_stream_events(prompt, message_history=history, **options) as events:
                async for event in events:
                    for part in parts.of(event):
                        yield part

    return handler


class _Parts:
    """One run's."""

    def __init__(self) -> None:
        self._texts = Joined()

    def of(self, event: Any) -> Iterator[Part]:
        match event.event_kind:
            case "part_start":
                if event.part.part_kind == "text":
                    self._texts.begin()
                yield from self._piece(event.part.part_kind, getattr(event.part, "content", None))
            case "part_delta":
                yield from self._piece(event.delta.part_delta_kind, getattr(event.delta, "content_delta", None))
            case "function_tool_call":
                yield ToolCall(event.part.tool_call_id, event.part.tool_name, event.part.args_as_dict())
            case "function_tool_result":
                failed = event.part.part_kind == "retry-prompt"
                text = event.part.model_response() if failed else event.part.model_response_str()
                yield ToolResult(event.part.tool_call_id, text, failed)
            case "agent_run_result":
                yield from _end(event.result)
            case _:
                yield Alive()

    def _piece(self, kind: str, content: str | None) -> Iterator[Part]:
        if kind == "text":
            yield from self._texts.take(content or "")
        elif kind == "thinking":
            yield Thinking(content or "")
        else:
            yield Alive()


def _end(result: Any) -> Iterator[Part]:
    from pydantic_core import to_jsonable_python

    if not isinstance(result.output, str):
        yield Data("output", to_jsonable_python(result.output))
    used = result.usage
    yield Usage(used.input_tokens, used.output_tokens, used.cache_read_tokens)


def _conversation(turns: Sequence[Message]) -> tuple[Any, list[Any]]:
    """The last turn, where it is the user's, and what went before it."""
    from pydantic_ai import messages as of

    history: list[Any] = []
    names: dict[str, str] = {}  # of the tools, by the ids of their calls
    last = turns[-1] if turns and turns[-1].role == "user" else None
    for turn in turns if last is None else turns[:-1]:
        match turn.role:
            case "assistant":
                said: list[Any] = [of.TextPart(text)] if (text := text_of(turn.content)) else []
                for call in turn.tool_calls or ():
                    names[call["id"]] = call["function"]["name"]
                    said.append(of.ToolCallPart(names[call["id"]], call["function"]["arguments"], call["id"]))
                history.append(of.ModelResponse(parts=said))
            case "tool":
                call_id = str(turn.tool_call_id)
                result = of.ToolReturnPart(names.get(call_id, "unknown"), text_of(turn.content), call_id)
                history.append(of.ModelRequest(parts=[result]))
            case "user":
                history.append(of.ModelRequest(parts=[of.UserPromptPart(_content(turn.content))]))
            case _:
                history.append(of.ModelRequest(parts=[of.SystemPromptPart(text_of(turn.content))]))
    return (None if last is None else _content(last.content)), history


def _content(content: Any) -> Any:
    """A user's turn: text, and pictures and files where there are some."""
    from pydantic_ai.messages import BinaryContent, ImageUrl

    if not isinstance(content, list):
        return content
    told: list[Any] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                told.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}} if not url.startswith("data:"):
                told.append(ImageUrl(url))
            case {"image_url": {"url": str(data)}} | {"file": {"file_data": str(data)}}:
                told.append(BinaryContent.from_data_uri(data))
            case _:
                raise ValueError(f"pydantic_ai() has no place for {json.dumps(part)[:80]}")
    return told
