"""Secrets, prompts and answers with a mark in them, through every success and failure there is: then the mark is looked
for in all logs (at DEBUG), metrics, refusals, errors, command lines and names of processes (design, invariant 10)."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from websockets.exceptions import InvalidStatus

from tests.end_to_end.test_providers import sse
from tests.fleet import Fleet, until
from tests.raw import Raw, frame, handshake
from tests.wire import PATIENCE_S, Sse, Ws, call, start, text_of
from tokenrelay.loadtest.fleet import free_port

MARK = "pl4nt3d"
KEY, SECRET = f"{MARK}-key-of-alice", f"{MARK}-secret-of-the-identity-provider"
ALICE = {"Authorization": f"Bearer {KEY}"}
PROMPT = f"my {MARK} question"

TEXT = sse(
    {
        "type": "message_start",
        "message": {"id": "m", "model": "claude", "usage": {"input_tokens": 3, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"a {MARK} answer"}},
)
END = sse(
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
)
TOOL = sse(
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "calculator"}},
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": json.dumps({"expression": f"{MARK} + 1"})},
    },
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
)
REFUSED = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": f"sk-{MARK}: {PROMPT}"}})


class FakeProvider:
    """Anthropic's wire, in a different trouble each time. What it says of it holds the mark."""

    def __init__(self) -> None:
        self.ways = ["whole", "tool", "whole", "refused", "key", "broken", "nonsense", "error"]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        way = self.ways.pop(0) if self.ways else "whole"
        if way in ("refused", "key"):
            return web.Response(status=400 if way == "refused" else 401, text=REFUSED, content_type="application/json")
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        if way != "nonsense":
            await stream.write(TEXT)
        if way == "broken":
            assert request.transport is not None
            request.transport.close()
        elif way == "nonsense":
            await stream.write(f"event: message_start\ndata: {{{MARK}\n\n".encode())
        elif way == "error":
            await stream.write(f"event: error\ndata: {REFUSED}\n\n".encode())
        else:
            await stream.write(TOOL if way == "tool" else END)
        return stream


class Heard:
    """What left the server that is not an answer."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.issued = [MARK]  # what must be in none of them; a token or a ticket hides the mark in base64

    def leaks(self) -> list[str]:
        """Where in the texts something of it is, with what stands around."""
        found = ((text, text.find(secret)) for text in self.texts for secret in self.issued)
        return [text[max(0, at - 300) : at + 100] for text, at in found if at >= 0]

    def token(self, seconds: float = 600, secret: str = SECRET) -> str:
        """One whose subject owns what it starts; the log names owners, so that it has no mark."""
        made = jwt.encode({"sub": "somebody@example.org", "exp": int(time.time() + seconds)}, secret, "HS256")
        self.issued += [made, made.rpartition(".")[2]]
        return made

    async def ticket(self, url: str, headers: dict[str, str], body: Any = None) -> str:
        ticket: str = (await call("POST", f"{url}/api/tickets", body, headers))[1]["ticket"]
        self.issued += [ticket, ticket.rpartition(".")[2]]
        return ticket

    async def refused(self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        status, answer, answered = await call(method, url, body, headers)
        assert status >= 400, (method, url, status)
        self.texts += [json.dumps(answer), str(answered)]


async def strangers(url: str, heard: Heard) -> None:
    """What is refused before anything starts."""
    chat = f"{url}/api/chat"
    for secret in (f"{MARK}-wrong", heard.token(-99), heard.token(secret="f" * 32), f"{MARK}.{MARK}.{MARK}"):
        await heard.refused("POST", chat, {"message": PROMPT}, {"Authorization": f"Bearer {secret}"})
    await heard.refused("GET", f"{url}/api/streams/{'0' * 32}?ticket={MARK}")
    await heard.refused("GET", f"{url}/api/streams/{MARK}", None, ALICE)
    await heard.refused("GET", f"{url}/{MARK}", None, ALICE)
    try:
        await Ws(url, query=f"?ticket={MARK}").__aenter__()
    except InvalidStatus as refusal:
        heard.texts += [str(refusal), (refusal.response.body or b"").decode()]
    for body in (
        {"message": PROMPT, "temperature": 99},
        {"messages": [{"role": "user", "content": PROMPT}, {"role": "user", "content": {MARK: 1}}]},
        {"message": PROMPT, "tools": [5]},
        {"message": PROMPT, "stop": [5, MARK]},
        f'{{"message": "{PROMPT}", '.encode(),
        {"message": f"{PROMPT}\ud800"},
    ):
        await heard.refused("POST", chat, body, ALICE)
    again = {**ALICE, "Idempotency-Key": f"{MARK}-once"}
    await call("POST", chat, {"message": PROMPT, "model": "scripted?tokens=1"}, again)
    await heard.refused("POST", chat, {"message": "another", "model": "scripted?tokens=1"}, again)
    async with Ws(url, headers=ALICE) as socket:
        await socket.say({"type": "start", "ref": "r", "message": PROMPT, "temperature": 99})
        heard.texts.append(json.dumps(await socket.hear()))
        await socket.connection.send(f'{{"type": "{MARK}')
    async with Ws(url, headers=ALICE) as socket:
        await socket.connection.send(MARK.encode())


async def answers(url: str, provider: FakeProvider, heard: Heard) -> None:
    """Every way in which a provider answers or fails; errors must not repeat what it said of them."""
    while provider.ways:
        before = len(provider.ways)
        async with Sse.post(
            url, {"message": PROMPT, "model": "claude-sonnet-5-5", "enable_tools": True}, ALICE
        ) as stream:
            events = await stream.take()
        assert len(provider.ways) < before
        if "error" in events[-1][1]:
            heard.texts.append(json.dumps(events[-1][1]))
        else:
            assert MARK in text_of(events)  # it did come through


async def vanish(url: str, heard: Heard) -> None:
    """Peers with good credentials that go without a goodbye: in the middle of a body, an answer, a message."""
    subject = {"Authorization": f"Bearer {heard.token()}"}
    long = {"message": PROMPT, "model": "scripted?tokens=1000&interval_ms=20", "on_disconnect": "cancel"}
    async with Raw(url) as peer:
        await peer.say(f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {subject['Authorization']}\r\n")
        await peer.say(f'Content-Length: 999\r\n\r\n{{"message": "{PROMPT}')
    async with Sse.post(url, long, subject) as stream:
        await stream.take(3)
        stream_id = stream.stream_id
    scoped, whole = await heard.ticket(url, subject, {"stream_id": stream_id}), await heard.ticket(url, subject)
    async with Raw(url) as peer:
        await peer.say(f"GET /api/streams/{stream_id}?ticket={scoped} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 200 " in await peer.head()
    async with Raw(url) as peer:
        await peer.say(handshake().replace("/api/ws", f"/api/ws?ticket={whole}"))
        assert b" 101 " in await peer.head()
        await peer.say(frame(1, json.dumps({"type": "start", "ref": MARK, **long}).encode()))
        await peer.frame()
        await peer.say(frame(1, f'{{"type": "{MARK}'.encode(), fin=False))
    async with Raw(url) as peer:
        await peer.say(handshake("tokenrelay.v1.json", f"Authorization: Bearer {KEY}"))
        await peer.head()
        await peer.say(frame(1, f"\xff{MARK}".encode("latin-1")))
        assert await peer.close_code() == 1007


async def without_redis(fleet: Fleet, heard: Heard) -> None:
    """Everything that is asked while Redis is gone, with a generation under way."""
    url = fleet.urls[0]
    fleet.restart_worker(0)
    fleet.wait_until_ready()
    ticket = await heard.ticket(url, ALICE)
    async with Sse.post(url, {"message": PROMPT, "model": "scripted?tokens=1000&interval_ms=20"}, ALICE) as stream:
        await stream.take(5)
        fleet.kill_redis()
        await heard.refused("POST", f"{url}/api/chat", {"message": PROMPT, "model": "scripted"}, ALICE)
        await heard.refused("GET", f"{url}/api/streams/{stream.stream_id}?ticket={ticket}")
        await heard.refused("POST", f"{url}/api/tickets", None, ALICE)
        other = jwt.encode({"sub": MARK}, "f" * 32, "HS256", headers={"kid": str(int(time.time() // 3600))})
        heard.issued.append(other)
        await heard.refused("GET", f"{url}/api/streams/{stream.stream_id}?ticket={other}")
    async with asyncio.timeout(PATIENCE_S):
        while (ready := await call("GET", f"{url}/readyz"))[0] == 200:
            await asyncio.sleep(0.2)
    heard.texts.append(str(ready))


async def metrics(heard: Heard, *urls: str) -> None:
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(f"{url}/metrics") as response:
                assert response.status == 200
                heard.texts.append(await response.text())


async def crash(fleet: Fleet, heard: Heard) -> None:
    """A worker that is killed; a ticket for what it left."""
    url = fleet.urls[0]
    long = "scripted?tokens=1000&interval_ms=20"
    stream_id = await start(url, long, ALICE, message=PROMPT)
    async with Sse.get(url, stream_id, 0, headers=ALICE) as stream:
        await stream.take(5)
        fleet.kill_worker(0)
        heard.texts.append(json.dumps((await stream.take())[-1][1]))
    ticket = await heard.ticket(url, ALICE, {"stream_id": stream_id})
    read = f"{url}/api/streams/{stream_id}?ticket={ticket}"
    assert (await call("GET", read, None, {"Accept": "application/json"}))[0] == 200


def processes(fleet: Fleet) -> list[str]:
    """What anybody on the machine can read of them."""
    found = [process.pid for process in (*fleet.edges, *fleet.workers) if process.poll() is None]
    return [Path(f"/proc/{pid}/{name}").read_text() for pid in found for name in ("cmdline", "comm")]


def test_no_secret_and_no_text_is_where_it_does_not_belong() -> None:
    provider, heard, port, metrics_port = FakeProvider(), Heard(), free_port(), free_port()
    env = {
        "TOKENRELAY_API_KEYS": f"alice:{KEY}",
        "TOKENRELAY_JWT_SECRET": SECRET,
        "ANTHROPIC_API_KEY": f"sk-{MARK}",
        "TOKENRELAY_ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "TOKENRELAY_MAX_ATTEMPTS": "1",
        "TOKENRELAY_LOG_LEVEL": "DEBUG",
        "TOKENRELAY_METRICS_PORT": str(metrics_port),
    }

    async def scene(fleet: Fleet) -> None:
        application = web.Application()
        application.router.add_post("/{path:.*}", provider.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            await strangers(fleet.urls[0], heard)
            await answers(fleet.urls[0], provider, heard)
            await vanish(fleet.urls[0], heard)
            heard.texts += processes(fleet)
            await metrics(heard, fleet.urls[0], f"http://127.0.0.1:{metrics_port}")
            await crash(fleet, heard)
            await without_redis(fleet, heard)
            await metrics(heard, fleet.urls[0])
        finally:
            await runner.cleanup()

    with Fleet(edges=1, workers=1, env=env) as fleet:
        asyncio.run(scene(fleet))
        fleet.kill_edge(0, signal.SIGTERM)
        until(lambda: fleet.edges[0].poll() is not None, "the edge does not end")
        heard.texts.append(fleet.said())
    assert "attempt_failed" in heard.texts[-1]  # the logs are there
    assert len(heard.issued) > 10
    assert not heard.leaks(), heard.leaks()
