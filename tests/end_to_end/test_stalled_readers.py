"""What a reader that accepts nothing costs its edge, over each transport and in each dialect: a fresh edge for each."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.end_to_end.test_slow_readers import metric, resident_kib
from tests.fleet import Fleet
from tokenrelay.protocol.runtime.launcher import clean_environment
from tokenrelay.protocol.store import keys

READERS = 40
MOST_KIB = 96
"""The bar is 64; with tokens of 1,000 characters 44 to 69 were measured (docs/security-tried.md)."""

LARGE_KIB = {"WebSocket, msgpack": 192, "Responses": 112, "UI message stream": 112}
"""These take more."""

LONG_S = 120.0
"""A busy machine writes 6,000 tokens at its own pace."""
HANDLER = """
import asyncio

async def writes(ask):
    for _ in range(150):
        yield "é" * 1000
        await asyncio.sleep(0.02)
"""
ROW = """[[model]]
id = "writes"
provider = "Acme"
upstream = "w"
dialect = "python"
handler = "stalled_handler:writes"
"""
ASKED = {"model": "writes", "stream": True}
TURN = {"role": "user", "content": "go"}
PART = {"role": "user", "id": "m", "parts": [{"type": "text", "text": "go"}]}


def connected(url: str) -> socket.socket:
    """A client that will not read. Without the small segments the kernel takes megabytes of a connection."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    client.connect((host, int(port)))
    return client


def post(url: str, path: str, body: dict[str, Any]) -> socket.socket:
    client, raw = connected(url), json.dumps(body).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
    )
    client.sendall("\r\n".join((*lines, "", "")).encode() + raw)
    return client


def shake_hands(url: str, subprotocol: str, message: bytes) -> socket.socket:
    client = connected(url)
    client.sendall(
        "GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Protocol: tokenrelay.v1.{subprotocol}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    # RFC 6455 section 5.2: a client masks; a mask of zeros leaves the bytes as they are.
    client.sendall(bytes([0x81 if subprotocol == "json" else 0x82, 0x80 | len(message)]) + b"\0\0\0\0" + message)
    return client


START = {"type": "start", "ref": 1, "model": "writes", "message": "go"}
WAYS: dict[str, tuple[str, Callable[[str, int], socket.socket]]] = {
    "SSE": ("sse", lambda url, _: post(url, "/api/chat", {**ASKED, "message": "go"})),
    "WebSocket, JSON": ("ws", lambda url, _: shake_hands(url, "json", json.dumps(START).encode())),
    "WebSocket, msgpack": ("ws", lambda url, _: shake_hands(url, "msgpack", msgpack.packb(START))),
    "Chat Completions": ("sse", lambda url, _: post(url, "/v1/chat/completions", {**ASKED, "messages": [TURN]})),
    "Responses": ("sse", lambda url, _: post(url, "/v1/responses", {**ASKED, "input": "go"})),
    "UI message stream": (
        "sse",
        lambda url, n: post(
            url, "/api/chat", {**ASKED, "id": f"c{n}", "trigger": "submit-message", "messages": [PART]}
        ),
    ),
}


@pytest.mark.timeout(900)
def test_a_reader_that_accepts_nothing_costs_little_whatever_its_transport_and_dialect(tmp_path: Path) -> None:
    async def cost(fleet: Fleet, index: int, transport: str, opened: Callable[[str, int], socket.socket]) -> float:
        """KiB a reader, once every stream has ended and every reader is still there."""
        url, pid, redis = fleet.urls[index], fleet.edges[index].pid, fleet.redis()
        sessions = f'tokenrelay_sessions{{transport="{transport}"}}'

        async def until_sessions(number: int) -> None:
            while await metric(url, sessions) != number or redis.exists(keys.LEASES, keys.WAITING):
                await asyncio.sleep(0.2)

        clients: list[socket.socket] = []
        grown = 0.0
        try:
            async with asyncio.timeout(LONG_S):
                clients.append(opened(url, -1))  # what is loaded once is loaded
                await until_sessions(1)
                before = resident_kib(pid)
                clients += [opened(url, number) for number in range(READERS)]
                await until_sessions(READERS + 1)
                for _ in range(20):  # the windows are let go a second or two after the last token
                    grown = (resident_kib(pid) - before) / READERS
                    if grown <= MOST_KIB:
                        break
                    await asyncio.sleep(0.2)
            return grown
        finally:
            for client in clients:
                client.close()

    (tmp_path / "stalled_handler.py").write_text(HANDLER)
    (tmp_path / "catalogue.toml").write_text(ROW)
    path = clean_environment({}).get("PYTHONPATH", "")
    env = {
        "TOKENRELAY_CATALOGUE": str(tmp_path / "catalogue.toml"), "PYTHONPATH": f"{tmp_path}:{path}".rstrip(":"),
        "TOKENRELAY_SEND_TIMEOUT_S": "600", "TOKENRELAY_MAX_JOBS": "200",
    }  # fmt: skip
    with Fleet(edges=len(WAYS), workers=1, env=env) as fleet:
        costs = {
            name: asyncio.run(cost(fleet, index, transport, opened))
            for index, (name, (transport, opened)) in enumerate(WAYS.items())
        }
    assert {name: round(kib) for name, kib in costs.items() if kib > LARGE_KIB.get(name, MOST_KIB)} == {}, costs
