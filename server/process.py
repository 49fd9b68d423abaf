"""One edge process: a socket of its own, uvicorn round the app, and the way out. Knows no request."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from pathlib import Path
from types import FrameType
from typing import Final

import structlog
import uvicorn

from tokenrelay.protocol.runtime import logs
from tokenrelay.protocol.runtime.exposition import Slot
from tokenrelay.server.access import limits
from tokenrelay.server.app import App
from tokenrelay.server.edge import Edge
from tokenrelay.server.net import peer
from tokenrelay.server.net.http_protocol import HttpProtocol
from tokenrelay.server.net.uvicorn_config import Config
from tokenrelay.server.net.ws_protocol import WebSocketProtocol
from tokenrelay.server.settings import Settings

BACKLOG: Final = 2048
AFTER_DRAIN_S: Final = 3
GIVE_UP_S: Final = 7.0
"""After the drain: uvicorn's own wait, then ours for Redis."""

GC_THRESHOLD: Final = 20_000

log = structlog.get_logger()


def bind(settings: Settings) -> socket.socket:
    """A listening socket that shares its port with those of sibling processes; the kernel spreads connections evenly.

    Raises OSError when the port is taken by somebody who does not share it.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.keep_alive(listener, settings.heartbeat_s)
    listener.bind((host.strip("[]"), port))
    listener.set_inheritable(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn with our way out: a signal begins the drain, and only its end stops the server."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.edge: Edge | None = None  # None until the lifespan has begun
        self._drain: asyncio.Task[None] | None = None  # None until the first signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn calls it with them
        if self._drain is not None or self.edge is None:
            self.should_exit = True  # asked twice, or before it served: no window
            return
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_and_stop())

    async def _drain_and_stop(self) -> None:
        try:
            if self.edge is not None:
                await self.edge.drain()
        finally:
            self.should_exit = True
            last = threading.Timer(GIVE_UP_S, _give_up, [self._loop])
            last.daemon = True  # it must not keep alive what it is to end
            last.start()

    def began(self, edge: Edge) -> None:
        self._loop = asyncio.get_running_loop()
        self.edge = edge


def _give_up(loop: asyncio.AbstractEventLoop) -> None:
    """All clients have been sent elsewhere, and something still does not end: half-open connections to Redis are closed
    one after the other, each with a timeout of its own. Waiting for that helps nobody."""
    log.error("closing_takes_too_long", tasks=sorted({str(task.get_coro()) for task in asyncio.all_tasks(loop)})[:20])
    os._exit(0)


def run(settings: Settings, listener: socket.socket, slot: Slot | None = None) -> None:
    """Serve until a signal; returns when everything is closed."""
    logs.configure(settings.log_level, settings.log_format)
    servers: list[_Server] = []
    app = App(settings, on_ready=lambda edge: servers[0].began(edge), slot=slot)
    config = Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whom to believe is a setting (`access.origin`)
        ws_max_size=settings.max_large_bytes,
        # Deflate costs 34 KiB a connection and a quarter of the throughput; tokens are small.
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.heartbeat_s,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=AFTER_DRAIN_S,
        backlog=BACKLOG,
    )
    config.max_connections = limits.connections(settings)
    config.read_timeout_s = settings.read_timeout_s
    config.max_body_bytes = settings.max_body_bytes
    config.max_large_bytes = settings.max_large_bytes
    config.large_bodies = limits.LargeBodies(settings.max_large_bodies)
    server = _Server(config)
    servers.append(server)
    signal.signal(signal.SIGINT, server.handle_exit)
    # What was made by importing stays for ever: it need not be looked at in each collection.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)  # tokens make no cycles; looking for some every 700 objects took 4 % of the time
    log.info("edge_listening", address=listener.getsockname(), max_connections=config.max_connections)
    server.run(sockets=[listener])


def run_child(settings: Settings, counts: Path, index: int) -> None:
    """One of several on the same port: each has a socket of its own, and a place in the folder of counts."""
    run(settings, bind(settings), Slot(counts, index))
