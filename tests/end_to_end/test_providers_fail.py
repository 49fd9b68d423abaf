"""Providers fail, the answer comes: edge, queue, two workers, three providers on loopback; one circuit for all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.end_to_end.test_providers import ANTHROPIC, GEMINI, KEYS, RESPONSES
from tests.fleet import Fleet
from tests.wire import Sse, call, text_of
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.models import catalogue

OURS = Path(__file__).resolve().parents[2] / "protocol" / "models" / "catalogue.toml"
CATALOGUE = catalogue.parse(OURS.read_text(encoding="utf-8"))
CROWD = 8


class Providers:
    """Three on one port. `broken` refuse with 503; `held` say nothing until they are let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.held: set[str] = set()
        self.let_go = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        provider = "OpenAI" if "responses" in path else "Anthropic" if "messages" in path else "Google"
        self.asked.append(provider)
        if provider in self.held:
            await self.let_go.wait()
        if provider in self.broken:
            return web.json_response({"error": {"message": "overloaded just now"}}, status=503)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write({"OpenAI": RESPONSES, "Anthropic": ANTHROPIC, "Google": GEMINI}[provider])
        return stream


async def ask(fleet: Fleet, **body: Any) -> dict[str, Any]:
    """The last event of an answer, with the whole text as `text`."""
    async with Sse.post(fleet.urls[0], {"message": "hello", **body}) as stream:
        events = await stream.take()
    return {**events[-1][1], "text": text_of(events)}


async def row(fleet: Fleet, name: str) -> dict[str, Any]:
    _, listing, _ = await call("GET", f"{fleet.urls[0]}/api/models")
    return next(row for row in listing["models"] if row["id"] == name)


async def until_circuit(fleet: Fleet, state: str) -> dict[str, Any]:
    async with asyncio.timeout(40):
        while (found := await row(fleet, "claude-3-sonnet"))["circuit"] != state:
            await asyncio.sleep(0.05)
    return found


async def story(fleet: Fleet, providers: Providers) -> None:
    # The first two of three are broken: the answer arrives whole, and says who wrote it and what was tried.
    providers.broken = {"Anthropic", "OpenAI"}
    end = await ask(fleet, model="claude")
    assert (end["text"], end["provider"], end["model"]) == ("Hello there", "Google", "gemini-1.5-pro"), end
    assert [attempt["model"] for attempt in end["attempts"]] == ["claude-3-sonnet", "gpt-4-turbo"]
    _, whole, _ = await call("POST", f"{fleet.urls[0]}/api/chat", {"message": "hello", "model": "claude"})
    assert (whole["response"], whole["provider"], len(whole["attempts"])) == ("Hello there", "Google", 2)
    # Its circuit opens in the one worker there is…
    while "attempts" in await ask(fleet, model="claude"):
        pass
    shown = await until_circuit(fleet, "open")
    assert (shown["available"], shown["unavailable_because"]) == (False, "rests after failures")
    [model] = [model for model in CATALOGUE.models if model.id == "claude-3-sonnet"]
    assert shown["price"] == {"input": model.price.input, "output": model.price.output}
    # …and another, which has asked nobody yet, knows it.
    async with asyncio.timeout(90):
        while True:
            fleet.kill_worker(-1)
            fleet.start_worker()
            before = providers.asked.count("Anthropic")
            end = await ask(fleet, model="claude-sonnet-5-5")
            if end["error_code"] != "PROVIDER_ERROR":
                break
            # The start took longer than the circuit stayed open. It is open again, for twice as long.
    assert (end["error_code"], end["retryable"], providers.asked.count("Anthropic")) == (
        "SERVICE_UNAVAILABLE", True, before,
    )  # fmt: skip
    assert end["retry_after"] >= 1
    # The rest is over, and of a crowd over two workers exactly one asks; the others are answered by somebody else.
    fleet.start_worker()
    providers.broken, providers.held = set(), {"Anthropic"}
    await until_circuit(fleet, "half_open")
    crowd = [asyncio.create_task(ask(fleet, model="claude")) for _ in range(CROWD)]
    async with asyncio.timeout(40):
        while sum(task.done() for task in crowd) < CROWD - 1 or providers.asked.count("Anthropic") == before:
            await asyncio.sleep(0.02)
    assert providers.asked.count("Anthropic") == before + 1
    providers.let_go.set()
    ends = await asyncio.gather(*crowd)
    assert sum(end["provider"] == "Anthropic" for end in ends) == 1  # OpenAI is half open as well: one trial there, too
    assert {end["text"] for end in ends} == {"Hello there"}
    shown = await until_circuit(fleet, "closed")
    assert shown["ttft_ms"] > 0
    # The worker that has not tried it hears of that within a second; then nobody is answered by somebody else.
    answered_by: set[str] = set()
    async with asyncio.timeout(15):
        while answered_by != {"Anthropic"}:
            ends = await asyncio.gather(*(ask(fleet, model="claude") for _ in range(CROWD)))
            answered_by = {end["provider"] for end in ends}


def test_the_next_provider_answers_and_all_workers_know_who_rests(tmp_path: Path) -> None:
    providers, port = Providers(), free_port()
    base = f"http://127.0.0.1:{port}"
    rules = tmp_path / "catalogue.toml"
    text = OURS.read_text(encoding="utf-8")
    assert "open_s = 15.0" in text
    rules.write_text(text.replace("open_s = 15.0", "open_s = 6.0"), encoding="utf-8")
    env = {
        **KEYS,
        "TOKENRELAY_CATALOGUE": str(rules),
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
            await story(fleet, providers)
        finally:
            providers.let_go.set()
            await runner.cleanup()
        said = fleet.logs()
        assert "overloaded just now" in said  # the provider's own words, which quote nothing of the request
        assert not [key for key in KEYS.values() if key in said]

    with Fleet(edges=1, workers=1, env=env) as fleet:
        asyncio.run(scene(fleet))
