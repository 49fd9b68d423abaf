"""The least that three processes can do for a token, to compare with: no sessions, no script, no limits, no checks.

    worker ──one XADD and one PUBLISH a token, pipelined──▶ Redis ──▶ edge ──one write──▶ client

It loses whatever a client misses, and a client that sends anything else than the crowd does breaks it.
`python -m loadtest.bench.floor worker`, `… edge PORT`; Redis is what TOKENRELAY_REDIS_URL names, a Unix socket.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import sys
import time
import uuid
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

import hiredis
import msgpack

from tokenrelay.loadtest import loop
from tokenrelay.protocol.models import scripted

READ: Final = 65_536
STARTS: Final = "floor:start"
READY: Final = b'{"workers": 1}'
SHORTEST_WAIT_S: Final = 0.001

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter, hiredis.Reader]


def command(*words: str | bytes) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of one word only
    return packed


async def connect() -> Streams:
    path = urlsplit(os.environ["TOKENRELAY_REDIS_URL"]).path
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 22)
    return reader, writer, hiredis.Reader()


async def work() -> None:
    """Plays the scripted model for every stream that is started."""
    reader, writer, _ = await connect()
    started, subscription, parser = await connect()
    subscription.write(command("SUBSCRIBE", STARTS))
    due: list[tuple[float, str, int, int, float]] = []  # when, which stream, which token, of how many, how far apart
    is_due = asyncio.Event()
    running = asyncio.get_running_loop()

    async def drop_replies() -> None:
        while await reader.read(READ):
            pass

    async def take_starts() -> None:
        while data := await started.read(READ):
            parser.feed(data)
            while (message := parser.gets()) is not False:
                if message[0] == b"message":
                    stream_id, tokens, interval_s = json.loads(message[2])
                    heapq.heappush(due, (running.time(), stream_id, 0, tokens, interval_s))
                    is_due.set()

    tasks = [asyncio.create_task(drop_replies()), asyncio.create_task(take_starts())]
    while not any(task.done() for task in tasks):
        if not due:
            is_due.clear()
            await is_due.wait()
        now, commands = running.time(), []
        while due and due[0][0] <= now:
            at, stream_id, number, tokens, interval_s = heapq.heappop(due)
            entry = msgpack.packb(("t", int(time.time() * 1000), "scripted", f"w{number} "))
            commands += [
                command("XADD", f"floor:{stream_id}:log", f"{number + 1}-0", "e", entry),
                command("PUBLISH", f"floor:{stream_id}", b"%d\n" % (number + 1) + entry),
            ]
            if number + 1 < tokens:
                heapq.heappush(due, (at + interval_s, stream_id, number + 1, tokens, interval_s))
        if commands:
            writer.write(b"".join(commands))
        if due:
            await asyncio.sleep(max(SHORTEST_WAIT_S, due[0][0] - running.time()))


class Edge:
    """The connections by the channel that each waits for."""

    def __init__(self, subscriptions: asyncio.StreamWriter, publications: asyncio.StreamWriter) -> None:
        self._subscriptions = subscriptions
        self._publications = publications
        self._connections: dict[bytes, Connection] = {}

    def start(self, connection: Connection, model: str) -> None:
        spec = scripted.parse(model)
        stream_id = uuid.uuid4().hex
        connection.tokens = spec.tokens
        self._connections[f"floor:{stream_id}".encode()] = connection
        connection.transport.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-stream-id: {stream_id}\r\n\r\n".encode()
        )
        self._subscriptions.write(command("SUBSCRIBE", f"floor:{stream_id}"))
        order = json.dumps([stream_id, spec.tokens, spec.interval_ms / 1000])
        self._publications.write(command("PUBLISH", STARTS, order))

    def take(self, channel: bytes, publication: bytes) -> None:
        connection = self._connections[channel]
        number, _, entry = publication.partition(b"\n")
        _, at, model, text = msgpack.unpackb(entry)
        is_last = int(number) == connection.tokens
        connection.transport.write(
            b'id: %b\ndata: {"token":"%b","done":%b,"model":"%b","timestamp":%d}\n\n'
            % (number, text.encode(), b"true" if is_last else b"false", model.encode(), at)
        )
        if is_last:
            connection.transport.close()
            del self._connections[channel]


class Connection(asyncio.Protocol):
    """One request, whole in one piece."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.tokens = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        _, _, body = data.partition(b"\r\n\r\n")
        if body:
            self._edge.start(self, json.loads(body)["model"])
        else:  # GET /readyz
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(READY), READY))
            self.transport.close()


async def serve(port: int) -> None:
    reader, subscriptions, parser = await connect()
    _, publications, _ = await connect()
    edge = Edge(subscriptions, publications)
    running = asyncio.get_running_loop()
    await running.create_server(lambda: Connection(edge), "127.0.0.1", port, backlog=2048)
    while data := await reader.read(READ):
        parser.feed(data)
        while (message := parser.gets()) is not False:
            if message[0] == b"message":
                edge.take(message[1], message[2])


def main() -> None:
    role, *port = sys.argv[1:]
    loop.run(work() if role == "worker" else serve(int(port[0])))


if __name__ == "__main__":
    main()
