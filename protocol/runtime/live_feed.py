"""One Redis connection in subscriber mode: subscriptions with acknowledgement, messages out. Knows no stream.

In a cluster channels are sharded: they live where their slot is, and one command takes channels of one slot only.

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

from tokenrelay.protocol.runtime.outage import is_told
from tokenrelay.protocol.runtime.redis import describe, place_of, wire_of

READ_BYTES: Final = 64 * 1024
ACK_TIMEOUT_S: Final = 5.0
CHANNELS_PER_COMMAND: Final = 500
_KINDS: Final = {
    b"message": b"message", b"subscribe": b"subscribe", b"unsubscribe": b"unsubscribe",
    b"smessage": b"message", b"ssubscribe": b"subscribe", b"sunsubscribe": b"unsubscribe",
}  # fmt: skip
"""What a message from Redis is, sharded or not."""

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
        on_away: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        """`on_away(channels)`: they are (no longer) on this server. Given where channels are sharded."""
        self._connect = connect
        self._on_away = on_away
        self._prefix = b"" if on_away is None else b"S"  # SSUBSCRIBE
        self._sent: deque[tuple[bytes, list[bytes]]] = deque()  # sharded: what is not answered; an error names nothing
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

        Raises TimeoutError when that takes longer than `ACK_TIMEOUT_S`; it stays wanted until `unsubscribe`.
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

    def give_up(self, channel: bytes) -> list[asyncio.Future[None]]:
        """It is on another server now: those who wait for its acknowledgement, for `take_over` there."""
        self._wanted.discard(channel)
        return [ack for group in self._acks.pop(channel, ()) for ack in group]

    def take_over(self, channel: bytes, waiting: list[asyncio.Future[None]]) -> None:
        """Subscribe, for those who have waited elsewhere."""
        self._wanted.add(channel)
        self._acks[channel].append(waiting)
        self._say(b"SUBSCRIBE", channel)

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
                if is_told(failures + 1):
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
        self._sent.clear()
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
                        gone = self._refused(reply)
                    elif (kind := _KINDS.get(reply[0])) == b"message":
                        self._hand_on(reply[1], reply[2])
                        continue
                    elif kind == b"subscribe":
                        self._answered(reply[1])
                        self._acknowledge(reply[1])
                        gone = [reply[1]]
                    else:
                        gone = self._left(reply[1]) if kind == b"unsubscribe" else []
                    if unacknowledged and not unacknowledged.isdisjoint(gone):
                        unacknowledged.difference_update(gone)
                        if not unacknowledged:
                            self._is_ready()
            finally:
                self._on_read()
        raise ConnectionError("closed by Redis")

    # -- where channels are sharded ------------------------------------------------------------------------------------

    def _answered(self, channel: bytes) -> bool:
        """The oldest command that is not answered asked for this channel; it is answered once all of its are."""
        if not self._sent or channel not in self._sent[0][1]:
            return False
        channels = self._sent[0][1]
        channels.remove(channel)
        if not channels:
            self._sent.popleft()
        return True

    def _refused(self, error: Exception) -> list[bytes]:
        """An error reply: the channels that are not here. Raises it where channels are not sharded."""
        if self._on_away is None or not self._sent:
            raise error
        command, channels = self._sent.popleft()
        if command != b"SUBSCRIBE":
            return []
        wanted = [channel for channel in channels if channel in self._wanted]
        self._on_away(wanted)
        return channels

    def _left(self, channel: bytes) -> list[bytes]:
        """Unsubscribed: asked for, or because the slot has gone to another server."""
        if self._on_away is None or (self._sent and self._sent[0][0] == b"UNSUBSCRIBE" and self._answered(channel)):
            return []
        if channel in self._wanted:
            self._on_away([channel])
        return [channel]

    # ------------------------------------------------------------------------------------------------------------------

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
        if self._prefix:
            channels.sort(key=_tag)
        self._send_all([(b"SUBSCRIBE", channel) for channel in channels])

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
        self._send_all(outgoing)

    def _send_all(self, outgoing: list[tuple[bytes, bytes]]) -> None:
        """Commands of as many channels as may stand together."""
        run: list[bytes] = []
        for index, (command, channel) in enumerate(outgoing):
            run.append(channel)
            following = outgoing[index + 1] if index + 1 < len(outgoing) else (b"", b"")
            is_last = following[0] != command or (bool(self._prefix) and _tag(following[1]) != _tag(channel))
            if is_last or len(run) == CHANNELS_PER_COMMAND:
                self._send(command, run)
                run = []

    def _send(self, command: bytes, channels: list[bytes]) -> None:
        if self._connection is not None:
            if self._prefix:
                self._sent.append((command, list(channels)))
            packed: Any = hiredis.pack_command((self._prefix + command, *channels))  # type: ignore[arg-type]
            # uvloop raises this when the connection was reset and `_read` has not heard of it yet: all is said again.
            with contextlib.suppress(RuntimeError):
                wire_of(self._connection)[1].write(packed)


def _tag(channel: bytes) -> bytes:
    return channel.partition(b"}")[0]
