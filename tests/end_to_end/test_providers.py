"""A key is set and its provider answers: through edge, queue and worker, over the provider's own wire on loopback."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.fleet import Fleet
from tests.wire import Sse, call, text_of
from tokenrelay.loadtest.fleet import free_port

KEYS = {
    "OPENAI_API_KEY": "sk-planted-openai",
    "ANTHROPIC_API_KEY": "sk-planted-anthropic",
    "GEMINI_API_KEY": "planted-g",
}


def sse(*events: dict[str, Any], named: bool = True) -> bytes:
    """Events as a provider sends them; with `event:` lines where it has them."""
    lines = [f"event: {event['type']}\n" if named else "" for event in events]
    return "".join(f"{line}data: {json.dumps(event)}\n\n" for line, event in zip(lines, events, strict=True)).encode()


RESPONSES = sse(
    {"type": "response.created", "response": {"id": "r", "model": "gpt-6.2-sol", "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Hello ", "output_index": 0, "content_index": 0, "item_id": "m"},
    {"type": "response.output_text.delta", "delta": "there", "output_index": 0, "content_index": 0, "item_id": "m"},
    {
        "type": "response.completed",
        "response": {
            "id": "r",
            "model": "gpt-6.2-sol",
            "status": "completed",
            "output": [],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        },
    },
)
ANTHROPIC = sse(
    {
        "type": "message_start",
        "message": {"id": "m", "model": "claude-sonnet-5-5", "usage": {"input_tokens": 3, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "there"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
)
GEMINI = sse(
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello "}]}}], "modelVersion": "gemini-3.8-flash"},
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "there"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": "gemini-3.8-flash",
    },
    named=False,
)


class Providers:
    """The three of them on one port; remembers who was asked for what, with which key."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        key = headers.get("x-goog-api-key") or headers["Authorization"]
        self.asked.append((request.path, key.removeprefix("Bearer ")))
        body = RESPONSES if "responses" in request.path else ANTHROPIC if "messages" in request.path else GEMINI
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(body)
        return stream


ROWS = [
    ("gpt-4-turbo", "OpenAI", "gpt-6.2-sol", "/v1/responses", "sk-planted-openai"),
    ("claude", "Anthropic", "claude-sonnet-5-5", "/v1/messages", "sk-planted-anthropic"),
    ("Gemini", "Google", "gemini-3.8-flash", "gemini-3.8-flash:streamGenerateContent", "planted-g"),
]


def test_with_their_keys_set_each_provider_answers_under_the_names_of_the_table() -> None:
    providers, port = Providers(), free_port()
    base = f"http://127.0.0.1:{port}"
    env = {
        **KEYS,
        "TOKENRELAY_OPENAI_BASE_URL": f"{base}/v1",
        "TOKENRELAY_ANTHROPIC_BASE_URL": base,
        "TOKENRELAY_GEMINI_BASE_URL": base,
    }

    async def scene(fleet: Fleet) -> None:
        application = web.Application()
        application.router.add_post("/{path:.*}", providers.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            for model, provider, upstream, path, key in ROWS:
                async with Sse.post(fleet.urls[0], {"message": "hello", "model": model}) as stream:
                    events = await stream.take()
                end = events[-1][1]
                assert text_of(events) == "Hello there", end
                assert (end["provider"], end["resolved_model"], end["model"]) == (provider, upstream, model)
                assert (end["input_tokens"], end["output_tokens"], end["finish_reason"]) == (3, 2, "stop")
                assert providers.asked[-1][0].endswith(path)
                assert providers.asked[-1][1] == key
            _, listing, _ = await call("GET", f"{fleet.urls[0]}/api/models")
            available = {row["id"] for row in listing["models"] if row["available"]}
            assert {"gpt-4-turbo", "claude-3-sonnet", "gemini-1.5-pro", "neuroswitch"} <= available
        finally:
            await runner.cleanup()
        said = fleet.logs()
        assert not [key for key in KEYS.values() if key in said]

    with Fleet(edges=1, workers=1, env=env) as fleet:
        asyncio.run(scene(fleet))
