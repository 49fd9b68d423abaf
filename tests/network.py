"""A bad network for tests: a TCP proxy whose connections are reset, stall, or go silent without being closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from tokenrelay.loadtest.fleet import free_port

READ_BYTES = 64 * 1024
Target: TypeAlias = int | Path
"""A port on loopback, or a Unix socket."""


class Link:
    """One connection through the proxy, the `number`-th since it began."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.flows = asyncio.Event()
        self.flows.set()
        self.writers: list[asyncio.StreamWriter] = []
        self.is_subscriber = False  # a Redis connection that asked for SUBSCRIBE

    def reset(self) -> None:
        """Both ends see RST."""
        for writer in self.writers:
            peer = writer.get_extra_info("socket")
            if peer is not None and peer.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    # socket(7): lingering for zero seconds sends RST in place of FIN.
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


Which: TypeAlias = Callable[[Link], bool]


def everyone(_: Link) -> bool:
    return True


class Proxy:
    """`with Proxy(target) as proxy: proxy.port`. Lives in a thread of its own; all methods can be called from any.

    `target` may be set later, and anew: who connects then goes there.
    """

    def __init__(self, target: Target = 0) -> None:
        self.target = target
        self.port = free_port()
        self._links: set[Link] = set()
        self._count = 0
        self._silences: list[Which] = []  # who matches one of these hears nothing, also when he comes later
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=2048), self._loop
        ).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def reset(self, which: Which = everyone) -> None:
        """Cut those that are open now."""
        self._loop.call_soon_threadsafe(self._reset, which)

    def silence(self, which: Which = everyone, *, and_new_ones: bool = True) -> None:
        """Nothing passes any more, and nobody is told: a stall; to who is not let go on, a half-open connection."""
        self._loop.call_soon_threadsafe(self._silence, which, and_new_ones)

    @property
    def open(self) -> int:
        return len(self._links)

    @property
    def count(self) -> int:
        """How many connections there have been."""
        return self._count

    def flow(self) -> None:
        """Whatever was silenced goes on where it was."""
        self._loop.call_soon_threadsafe(self._flow)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _reset(self, which: Which) -> None:
        for link in list(self._links):
            if which(link):
                link.reset()

    def _silence(self, which: Which, and_new_ones: bool) -> None:
        if and_new_ones:
            self._silences.append(which)
        for link in self._links:
            if which(link):
                link.flows.clear()

    def _flow(self) -> None:
        self._silences.clear()
        for link in self._links:
            link.flows.set()

    def _judge(self, link: Link) -> None:
        if any(which(link) for which in self._silences):
            link.flows.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        link = Link(self._count)
        link.writers.append(writer)
        self._links.add(link)
        self._judge(link)
        pumps: list[asyncio.Task[None]] = []
        try:
            there, back = await self._connect()
            link.writers.append(back)
            pumps = [
                asyncio.create_task(self._pump(link, reader, back, is_client=True)),
                asyncio.create_task(self._pump(link, there, writer, is_client=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            link.reset()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._links.discard(link)
            for end in link.writers:
                end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, int):
            return await asyncio.open_connection("127.0.0.1", self.target)
        return await asyncio.open_unix_connection(str(self.target))

    async def _pump(self, link: Link, reader: Any, writer: Any, *, is_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if is_client and not link.is_subscriber and b"SUBSCRIBE" in data:
                    link.is_subscriber = True
                    self._judge(link)
                await link.flows.wait()
                writer.write(data)
                await writer.drain()
            await link.flows.wait()  # a goodbye does not come through either

    async def _close(self) -> None:
        self._server.close()
        self._flow()
        self._reset(everyone)
        while self._links:
            await asyncio.sleep(0.01)
