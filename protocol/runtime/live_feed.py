"""One Redis connection in subscriber mode: subscriptions with acknowledgement, messages out. Knows no stream.

redis-py's PubSub costs about seven times the CPU of a bare hiredis reader per message, and does not say when a
subscription has been acknowledged; so this reads the connection's own StreamReader (redis-py is pinned below 6).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from tokenrelay.protocol.runtime.redis import describe, place_of, wire_of

READ_BYTES: Final = 64 * 1024
ACK_TIMEOUT_S: Final = 5.0
CHANNELS_PER_COMMAND: Final = 500

log = structlog.get_logger()


class LiveFeed:
    """Keeps itself connected. `on_message(channel, payload)` for each message; `on_connected()` when there is a
    connection again and everything that was wanted is subscribed and acknowledged; `on_read()` after all messages of
    one read."""

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        on_message: Callable[[bytes, bytes], None],
        on_connected: Callable[[], None],
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_read = on_read
        self._wanted: set[bytes] = set()
        # Per channel one group of waiters for each SUBSCRIBE that is under way: Redis answers in order, so that an
        # ack of an earlier subscription (left meanwhile) is not taken for a later one's.
        self._acks: defaultdict[bytes, deque[list[asyncio.Future[None]]]] = defaultdict(deque)
        self._connection: AbstractConnection | None = None  # None while there is none
        self._outgoing: list[tuple[bytes, bytes]] = []  # (command, channel) of this turn of the loop
        self.connects = 0
        self._works = False  # the connection has acknowledged every subscription
        self.place = ""  # host and database, for the log

    def __repr__(self) -> str:
        state = "connected" if self._connection is not None else "away"
        return f"<LiveFeed {state} | {len(self._wanted)} channels | {self.connects} connects>"

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def subscribe(self, channel: bytes) -> None:
        """Returns when Redis has acknowledged; what is published from then on arrives.

        Raises TimeoutError when that takes longer than `ACK_TIMEOUT_S`; the wish stays until `unsubscribe`.
        """
        self._wanted.add(channel)
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        groups = self._acks[channel]
        if self._connection is not None or not groups:
            groups.append([ack])
        else:
            groups[-1].append(ack)
        self._say(b"SUBSCRIBE", channel)
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await ack

    def want(self, channel: bytes) -> None:
        """Subscribe as soon as there is a connection; nobody waits for it."""
        self._wanted.add(channel)

    def unsubscribe(self, channel: bytes) -> None:
        self._wanted.discard(channel)
        self._say(b"UNSUBSCRIBE", channel)

    def drop(self) -> None:
        """Give the connection up as dead; a new one is made."""
        if self._connection is not None:
            wire_of(self._connection)[1].close()

    async def run(self) -> None:
        """Owned by the hub; ends only by being cancelled."""
        failures = 0
        while True:
            connection = self._connect()
            self._works, self.place = False, place_of(connection)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._read(connection)
            except (RedisError, OSError, hiredis.HiredisError) as error:
                if failures & (failures - 1) == 0:  # 0, 1, 2, 4, 8…: an outage does not fill the log
                    log.warning("live_feed_lost", redis=self.place, error=describe(error), failures=failures)
            finally:
                self._connection = None
                with contextlib.suppress(Exception):
                    await asyncio.shield(connection.disconnect(nowait=True))
            # At once after a connection that worked (one that may not subscribe does not); then with jitter, so that
            # edges do not come back together.
            failures = 0 if self._works else failures + 1
            if failures:
                await asyncio.sleep(random.uniform(0.05, min(2.0, 0.1 * 2**failures)))  # noqa: S311

    async def _read(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.connects += 1
        unacknowledged = set(self._wanted)
        self._subscribe_again()
        if not unacknowledged:
            self._is_ready()
        parser = hiredis.Reader()
        reader, _ = wire_of(connection)
        while data := await reader.read(READ_BYTES):
            try:
                parser.feed(data)
                while (reply := parser.gets()) is not False:
                    if isinstance(reply, Exception):
                        raise reply
                    if reply[0] == b"message":
                        self._hand_on(reply[1], reply[2])
                    elif reply[0] == b"subscribe":
                        self._acknowledge(reply[1])
                        if reply[1] in unacknowledged:
                            unacknowledged.discard(reply[1])
                            if not unacknowledged:
                                self._is_ready()
            finally:
                self._on_read()
        raise ConnectionError("closed by Redis")

    def _is_ready(self) -> None:
        self._works = True
        self._on_connected()

    def _hand_on(self, channel: bytes, payload: bytes) -> None:
        """One message that cannot be digested costs its own stream, not all that are read over this connection."""
        try:
            self._on_message(channel, payload)
        except Exception as error:
            log.error("message_failed", channel=channel.decode("ascii", "replace"), exc_info=error)

    def _subscribe_again(self) -> None:
        self._outgoing.clear()
        channels = list(self._wanted)
        waiting = {channel: [ack for group in groups for ack in group] for channel, groups in self._acks.items()}
        self._acks.clear()
        for channel in channels:
            self._acks[channel].append(waiting.get(channel, []))
        for start in range(0, len(channels), CHANNELS_PER_COMMAND):
            self._send(b"SUBSCRIBE", channels[start : start + CHANNELS_PER_COMMAND])

    def _acknowledge(self, channel: bytes) -> None:
        groups = self._acks.get(channel)
        if not groups:
            return
        for ack in groups.popleft():
            if not ack.done():
                ack.set_result(None)
        if not groups:
            del self._acks[channel]

    def _say(self, command: bytes, channel: bytes) -> None:
        """Commands of one turn of the loop leave in one write."""
        if self._connection is None:
            return  # what is wanted is subscribed when there is a connection
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append((command, channel))

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        run: list[bytes] = []
        for index, (command, channel) in enumerate(outgoing):
            run.append(channel)
            is_last = index + 1 == len(outgoing) or outgoing[index + 1][0] != command
            if is_last or len(run) == CHANNELS_PER_COMMAND:
                self._send(command, run)
                run = []

    def _send(self, command: bytes, channels: list[bytes]) -> None:
        if self._connection is not None:
            packed: Any = hiredis.pack_command((command, *channels))  # type: ignore[arg-type]
            # uvloop raises this when the connection was reset and `_read` has not heard of it yet: all is said again.
            with contextlib.suppress(RuntimeError):
                wire_of(self._connection)[1].write(packed)
