"""The live feeds of a process: one connection a server, each channel on the server that has it. Knows no stream.

A channel follows its slot: refused or told that it has left, it is subscribed to where it is now, and whoever reads it
hears of that, for what was published meanwhile is only in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from tokenrelay.protocol.runtime.live_feed import ACK_TIMEOUT_S, LiveFeed
from tokenrelay.protocol.runtime.stores.base import Store

AGAIN_S: Final = 0.1
"""After so long a channel that was refused is tried again, where its slot is by then."""

log = structlog.get_logger()


class Feeds:
    """`on_message(channel, payload)` for each message; `on_read()` after all messages of one read.
    `on_connected(server, channels)`: those were not heard for a while and are again; None: all of that server."""

    def __init__(
        self,
        store: Store,
        on_message: Callable[[bytes, bytes], None],
        on_connected: Callable[[str, list[bytes] | None], None],
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_read = on_read
        self._feeds: dict[str, LiveFeed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._at: dict[bytes, str | None] = {}  # what is wanted, and the server it is wanted of; None: none has it now
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}  # of those that no server has now
        self._group: asyncio.TaskGroup | None = None  # None unless it runs
        self._again: asyncio.TimerHandle | None = None  # None unless channels are to be placed again soon
        store.on_change(self._place_all)
        self._meet_servers()

    def __repr__(self) -> str:
        return f"<Feeds {', '.join(map(repr, self._feeds.values()))} | {len(self._at)} channels>"

    @property
    def servers(self) -> tuple[str, ...]:
        return tuple(self._feeds)

    async def subscribe(self, channel: bytes) -> None:
        """Returns when it is acknowledged; what is published from then on arrives.

        Raises TimeoutError when that takes longer than `ACK_TIMEOUT_S`; the wish stays until `unsubscribe`.
        """
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._place(channel, [ack])
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await ack

    def want(self, channel: bytes) -> None:
        """Subscribe as soon as that is possible; nobody waits for it."""
        if channel not in self._at:
            self._place(channel, [])

    def unsubscribe(self, channel: bytes) -> None:
        server = self._at.pop(channel, None)
        self._waiting.pop(channel, None)
        if server is not None and server in self._feeds:
            self._feeds[server].unsubscribe(channel)

    def mark(self, channel: bytes) -> tuple[str, int] | None:
        """The connection that it is subscribed on: while this stays the same, nothing of it was missed. None: there is
        no connection."""
        server = self._at.get(channel)
        feed = None if server is None else self._feeds.get(server)
        return None if feed is None or not feed.is_connected else (str(server), feed.connects)

    def drop(self, server: str) -> None:
        """Give a connection up as dead; a new one is made."""
        if server in self._feeds:
            self._feeds[server].drop()

    async def run(self) -> None:
        """Owned by whoever made it; ends only by being cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._place_all()
                for server in self._feeds:
                    self._start(server)
                await asyncio.Event().wait()
        finally:
            self._group = None
            self._tasks.clear()

    # -- where channels are --------------------------------------------------------------------------------------------

    def _meet_servers(self) -> None:
        """A feed for each server there is; those of servers that have gone end."""
        servers = self._store.servers()
        for server in servers:
            if server not in self._feeds:
                self._feeds[server] = self._feed(server)
                self._start(server)
        for server in [each for each in self._feeds if each not in servers]:
            left = [channel for channel, at in self._at.items() if at == server]
            self._lose(server, left)
            del self._feeds[server]
            if (task := self._tasks.pop(server, None)) is not None:
                task.cancel()

    def _feed(self, server: str) -> LiveFeed:
        def away(channels: list[bytes]) -> None:
            self._lose(server, channels)
            self._store.look_again()
            self._place_again_soon()

        return LiveFeed(
            lambda: self._store.connection(server),
            self._on_message,
            lambda: self._on_connected(server, None),
            self._on_read,
            away if self._store.names.is_cluster else None,
        )

    def _start(self, server: str) -> None:
        if self._group is not None and server not in self._tasks:
            self._tasks[server] = self._group.create_task(self._feeds[server].run())

    def _place(self, channel: bytes, waiting: list[asyncio.Future[None]]) -> None:
        server = self._store.server_of_key(channel)
        feed = None if server is None else self._feeds.get(server)
        before = self._at.get(channel)
        if before is not None and before != server and before in self._feeds:
            waiting = [*self._feeds[before].give_up(channel), *waiting]
            self._feeds[before].unsubscribe(channel)
        waiting = [*self._waiting.pop(channel, ()), *waiting]
        if feed is None:
            self._at[channel] = None
            self._waiting[channel] = waiting
            self._store.look_again()
        else:
            self._at[channel] = server
            feed.take_over(channel, waiting)

    def _lose(self, server: str, channels: Iterable[bytes]) -> None:
        for channel in channels:
            if self._at.get(channel) == server:
                self._waiting.setdefault(channel, []).extend(self._feeds[server].give_up(channel))
                self._at[channel] = None

    def _place_all(self) -> None:
        """Each channel on the server that has it by what is known now."""
        self._meet_servers()
        moved: dict[str, list[bytes]] = {}
        acks: list[asyncio.Future[None]] = []
        for channel, at in list(self._at.items()):
            server = self._store.server_of_key(channel)
            if server is None or server == at:
                continue
            ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._place(channel, [ack])
            moved.setdefault(server, []).append(channel)
            acks.append(ack)
        if moved and self._group is not None:
            self._group.create_task(self._tell_when_heard(moved, acks))

    async def _tell_when_heard(self, moved: dict[str, list[bytes]], acks: list[asyncio.Future[None]]) -> None:
        await asyncio.wait(acks, timeout=ACK_TIMEOUT_S)
        for server, channels in moved.items():
            self._on_connected(server, channels)

    def _place_again_soon(self) -> None:
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN_S, self._place_again)

    def _place_again(self) -> None:
        self._again = None
        self._place_all()
        if any(at is None for at in self._at.values()):
            self._place_again_soon()
