"""Three providers on loopback, each with its own wire, each to be broken in its own way; one generation over them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from tests.end_to_end.test_providers import ANTHROPIC, GEMINI, RESPONSES
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked, hangs, says
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.entries import unpack_entry
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.wire import event_json, request
from tokenrelay.workers.circuit import Circuits
from tokenrelay.workers.generation.generation import Generation
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.providers.anthropic import Anthropic
from tokenrelay.workers.providers.base import Accepts, Provider
from tokenrelay.workers.providers.gemini import Gemini
from tokenrelay.workers.providers.responses import Responses
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools.registry import Toolbox

CATALOGUE: Final = Path(catalogue.__file__).with_name("catalogue.toml")
OURS: Final = catalogue.parse(CATALOGUE.read_text(encoding="utf-8"))
DIALECTS: Final = ("responses", "anthropic", "gemini")
BODIES: Final = {"responses": RESPONSES, "anthropic": ANTHROPIC, "gemini": GEMINI}
KINDS: Final = {"responses": Responses, "anthropic": Anthropic, "gemini": Gemini}
PROVIDERS: Final = {"responses": "OpenAI", "anthropic": "Anthropic", "gemini": "Google"}
TRANSCRIPTS: Final = Path(__file__).parent / "oracle" / "transcripts"


def refuses(status: int, error: dict[str, Any] | None = None, *headers: str) -> Script:
    """An answer with this status; a body in words that all three providers use."""
    body = json.dumps({"error": error or {"message": "a secret"}}).encode()
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers))
    return says(head.encode() + b"\r\n" + body)


async def _cuts(_: Reader, writer: Writer) -> None:
    writer.close()


# name, how, and what is told of it
BREAKS: Final[dict[str, tuple[Script | None, str]]] = {
    "rate limit": (refuses(429, None, "Retry-After: 3600"), "RATE_LIMIT"),
    "500": (refuses(500), "PROVIDER_ERROR"),
    "overloaded": (refuses(529), "OVERLOADED"),
    "refused connection": (None, "PROVIDER_ERROR"),
    "stall before the head": (hangs(), "TIMEOUT"),
    "stall after the head": (hangs(HEAD), "TIMEOUT"),
    "cut before the first byte": (_cuts, "PROVIDER_ERROR"),
    "cut after the head": (says(HEAD, close=True), "PROVIDER_ERROR"),
    "model gone": (refuses(404), "PROVIDER_ERROR"),
    "bad key": (refuses(401), "PROVIDER_ERROR"),
}


def answers(body: bytes) -> Script:
    return says(HEAD + chunked(body) + END)


def in_turn(*scripts: Script) -> Script:
    """Another for each request; the last one again and again."""
    left = list(scripts)

    async def script(reader: Reader, writer: Writer) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(reader, writer)

    return script


class Memory:
    """As much of a store as keeps echoes."""

    names = keys.ONE_SERVER

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def ask(self, command: str, *args: Any) -> Any:
        if command == "MGET":
            return [self.held.get(name) for name in args]
        name, value, unit, much = args
        assert (command, unit) == ("SET", "PX")
        assert much > 0
        self.held[name] = value
        return None


class Chain:
    """`async with Chain({"responses": script, …}) as chain: await chain.told(model="claude")`. None: nobody listens."""

    def __init__(self, scripts: dict[str, Script | None], **settings: Any) -> None:
        given = {"first_token_timeout_s": 1.0, "first_token_budget_s": 5.0, **settings}
        self.settings = Settings(**given)
        self.metrics = Metrics()
        self.store = Memory()
        self.health = Circuits(OURS.routing.health, "w", 1.0)
        self.upstreams = {dialect: Upstream(script) for dialect, script in scripts.items() if script is not None}
        self._scripts = scripts
        self._stack = contextlib.AsyncExitStack()
        self.providers: dict[str, Provider] = {}

    async def __aenter__(self) -> Chain:
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        for dialect in self._scripts:
            upstream = self.upstreams.get(dialect)
            root = f"http://127.0.0.1:{free_port()}"
            if upstream is not None:
                root = (await self._stack.enter_async_context(upstream)).root
            self.providers[dialect] = KINDS[dialect](
                api_key="planted", session=session, base_url=f"{root}/v1" if dialect == "responses" else root,
                accepts=Accepts(),
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def asked(self, dialect: str) -> list[dict[str, Any]]:
        """The bodies this provider got."""
        upstream = self.upstreams.get(dialect)
        return [] if upstream is None else [json.loads(body) for _, _, body in upstream.requests]

    async def told(self, **fields: Any) -> list[dict[str, Any]]:
        """The events of one generation, as a client gets their data."""
        entries: list[bytes] = []
        await self.generation(entries.append, **fields).run()
        return [event_json.data_of(unpack_entry(raw), "s") for raw in entries]

    def generation(self, append: Callable[[bytes], None], **fields: Any) -> Generation:
        asked = request.from_object({"message": "What is six times seven?", **fields})
        resources: Any = SimpleNamespace(
            settings=self.settings, writer=SimpleNamespace(mark=lambda _: None, ended=lambda _: None), catalogue=OURS,
            providers=self.providers, tools=Toolbox(), circuits=self.health, store=self.store,
            metrics=self.metrics, tracing=Tracing(),
        )  # fmt: skip
        claim = Claim("s", 1, 0, 0, asked.model or "neuroswitch", "continue", request.pack(asked))
        generation = Generation(resources, claim, 0.0)
        log: Any = generation.log
        log.append = append
        log.end = lambda raw, _: append(raw)
        return generation


@contextlib.asynccontextmanager
async def chain(scripts: dict[str, Script | None], **settings: Any) -> AsyncIterator[Chain]:
    async with Chain(scripts, **settings) as made:
        yield made


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["token"] for event in events)


def transcript(dialect: str, name: str) -> bytes:
    return (TRANSCRIPTS / dialect / f"{name}.sse").read_bytes()
