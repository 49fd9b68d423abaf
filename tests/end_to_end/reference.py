"""Providers on loopback that judge what they are asked by the request types of their own SDKs; knows nothing of ours
but the names of its dialects. What is not right is kept in `faults` and refused with 400."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import pydantic
from aiohttp import web

from tests.workers.oracle.cases import CASES
from tests.workers.oracle.test_bodies import judged

COMPATIBLE: Final = "/compatible"
KEY: Final = "k-1"
SHOWN: Final = (
    "authorization", "x-api-key", "anthropic-version", "anthropic-beta", "x-goog-api-key", "content-type",
)  # fmt: skip
"""The headers that tell who asks, and how."""


class Ask(msgspec.Struct, frozen=True):
    """One request as it came. `target` is path and query."""

    dialect: str
    target: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """Google has it in the path."""
        return str(self.body.get("model") or self.target.partition("/models/")[2].partition(":")[0])

    @property
    def address(self) -> str:
        """Where it asked, whatever the model."""
        head, mark, tail = self.target.partition("/models/")
        return f"{head}{mark}{tail.partition(':')[2]}"

    @property
    def results(self) -> int:
        """How many results of tools there are in the conversation."""
        return sum(json.dumps(self.body).count(mark) for mark in RESULTS[self.dialect])


RESULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat_completions": ('"role": "tool"',),
    "responses": ('"function_call_output"',),
    "anthropic": ('"tool_result"',),
    "gemini": ('"functionResponse"',),
}


class Reference:
    """All providers on one port. Answers by a tool call where a calculator is offered and has given nothing yet."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.faults: list[str] = []
        self.root = ""
        self._runner: web.AppRunner | None = None  # None before `open`

    async def open(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        dialect = dialect_of(request.path)
        if dialect is None or request.method != "POST":
            self.faults.append(f"nobody is at {request.method} {request.path}")
            return web.Response(status=404)
        headers = {name: value for name in SHOWN if (value := request.headers.get(name)) is not None}
        ask = Ask(dialect, request.path_qs, headers, json.loads(await request.read()))
        self.asked.append(ask)
        if fault := fault_of(ask):
            self.faults.append(fault)
            return web.json_response({"error": {"message": fault}}, status=400)
        calls = "calculator" in json.dumps(ask.body.get("tools", "")) and not ask.results
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(transcript(dialect, "one_tool_call" if calls else "text"))
        return stream


def dialect_of(path: str) -> str | None:
    """By the addresses of the providers' references."""
    if path == "/v1/responses":
        return "responses"
    if path == "/v1/messages":
        return "anthropic"
    if path == f"{COMPATIBLE}/v1/chat/completions":
        return "chat_completions"
    return "gemini" if path.startswith("/v1/models/") and path.endswith(":streamGenerateContent") else None


def fault_of(ask: Ask) -> str | None:
    """What its provider would refuse it for: a field that is not theirs or of another type, or rules no type tells."""
    try:
        kept = judged(ask.dialect, ask.body)
    except pydantic.ValidationError as error:
        return f"{ask.dialect}: {error}"
    if kept != ask.body:
        return f"{ask.dialect}: fields that are not theirs in {json.dumps(ask.body)}"
    if ask.dialect != "gemini" and ask.body.get("stream") is not True:
        return f"{ask.dialect}: no stream was asked for"
    if lost := results_without_calls(ask):
        return f"{ask.dialect}: results of calls that nobody asked for: {lost}"
    if ask.dialect == "gemini" and not ask.target.endswith("?alt=sse"):
        return "gemini: events were not asked for"
    return None


def results_without_calls(ask: Ask) -> set[str]:
    """Every provider refuses those. By the call's id; Google goes by the name."""
    parts = list(_objects(ask.body))
    match ask.dialect:
        case "chat_completions":
            called = {call["id"] for part in parts for call in part.get("tool_calls") or ()}
            given = {part["tool_call_id"] for part in parts if "tool_call_id" in part}
        case "responses":
            called = {part["call_id"] for part in parts if part.get("type") == "function_call"}
            given = {part["call_id"] for part in parts if part.get("type") == "function_call_output"}
        case "anthropic":
            called = {part["id"] for part in parts if part.get("type") == "tool_use"}
            given = {part["tool_use_id"] for part in parts if part.get("type") == "tool_result"}
        case _:
            called = {part["functionCall"]["name"] for part in parts if "functionCall" in part}
            given = {part["functionResponse"]["name"] for part in parts if "functionResponse" in part}
    return given - called


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in it, at any depth."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)


def transcript(dialect: str, name: str) -> bytes:
    return next(case.body for case in CASES if (case.dialect, case.name) == (dialect, name))
