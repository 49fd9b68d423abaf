"""A worker's only HTTP endpoint, `GET /metrics`, on a port of its own. Knows no metric."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import structlog
from aiohttp import web

from tokenrelay.protocol.runtime.exposition import CONTENT_TYPE, Exposition

BACKLOG: Final = 16

log = structlog.get_logger()


def bind(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """A socket for it, shared with sibling processes where there are some. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError:
        listener.close()
        raise
    return listener


async def serve(exposition: Exposition, listener: socket.socket) -> None:
    """Owned by the process; ends only by being cancelled."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition.text(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application(client_max_size=1_024)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=15)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        log.info("metrics_listening", address=listener.getsockname())
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
