"""A Redis Cluster or Valkey Cluster: many servers, each with some of the partitions.

Whoever asks waits for a failover or for a slot that is being moved, for at most `COMMAND_TIMEOUT_S`; one server that is
away holds up nobody who asks another. redis-py's own client for clusters subscribes to nothing, and while one primary
was dead it held up calls to the others.

ASK is not followed but for reads of one key: a script would write some of its keys there and find others here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.runtime.address import ClusterAddress, Tls
from tokenrelay.protocol.runtime.redis import COMMAND_TIMEOUT_S, NO_TLS, describe
from tokenrelay.protocol.runtime.stores import slot_map
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.runtime.stores.replies import LATER_S, Redirect, redirect
from tokenrelay.protocol.runtime.stores.slot_map import EMPTY, SlotMap
from tokenrelay.protocol.store import keys, partitions
from tokenrelay.protocol.store.scripts import Argument, Script

REFRESH_S: Final = 5.0
SERVER_TIMEOUT_S: Final = 1.0
"""For one server's reply: after it the servers are looked at anew, for this one may have been replaced."""

MAP_TIMEOUT_S: Final = 0.5
ASKED_AT_ONCE: Final = 3
_AWAY: Final = (RedisConnectionError, RedisTimeoutError, OSError)
_READS: Final = frozenset({"XRANGE", "HMGET", "HGET", "GET", "EXISTS", "ZCARD", "ZREVRANGE"})
T = TypeVar("T")

log = structlog.get_logger()


class Cluster(Store):
    """`keep_map` keeps the map of slots true and belongs to a supervisor; all else works without it, more slowly."""

    names = keys.CLUSTER

    def __init__(self, address: ClusterAddress, number: int, most: int, tls: Tls = NO_TLS) -> None:
        """`number` partitions; at most `most` connections to each server."""
        self.tags = partitions.tags(number)
        self._address = address
        self._most = most
        self._tls = tls
        self._clients: dict[str, Redis] = {}
        self._map = EMPTY
        self._seeds = tuple(slot_map.address(host, port) for host, port in address.hosts)
        self._failed_at: dict[str, float] = {}  # servers that did not answer, by the loop's clock
        self._listeners: list[Callable[[], None]] = []
        self._look = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None  # None unless the servers are being asked for the map
        self._remarks: dict[str, list[str]] = {}
        self._checked: set[str] = set()  # servers whose settings were read
        self._has_agreed = False

    def __repr__(self) -> str:
        return f"<Cluster {len(self._map.primaries)} servers | {len(self.tags)} partitions>"

    # -- the interface -------------------------------------------------------------------------------------------------

    async def run(self, script: Script, arguments: Sequence[Argument], tag: str | None = None) -> Any:
        if tag is None:
            tag = partitions.tag_in(str(arguments[2]))
        given = script.in_cluster(arguments, tag)
        wants = runtime.Wanted(script.cluster_text, given)
        return await self._persist(tag, lambda client: runtime.run_text(client, wants))

    async def ask(self, *command: Any) -> Any:
        tag = _tag_of(command)
        follows = command[0] in _READS

        def ask(client: Redis) -> Awaitable[Any]:
            asked: Awaitable[Any] = client.execute_command(*command)  # type: ignore[no-untyped-call]
            return asked

        return await self._persist(tag, ask, command if follows else None)

    async def ask_many(
        self, commands: Sequence[Sequence[Any]], tag: str | None = None, *, wait_s: float = COMMAND_TIMEOUT_S
    ) -> list[Any]:
        tags = [_tag_of(command) if tag is None else tag for command in commands]
        values: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        until = _now() + wait_s
        while left:
            by_server: dict[str | None, list[int]] = {}
            for at in left:
                by_server.setdefault(self.server_of(tags[at]), []).append(at)
            asked = (self._pipeline(server, [commands[at] for at in group]) for server, group in by_server.items())
            pause, again = 0.0, list[int]()
            for group, answers in zip(by_server.values(), await asyncio.gather(*asked), strict=True):
                for at, answer in zip(group, answers, strict=True):
                    values[at] = answer
                    wait = self.explain(answer, tags[at]) if isinstance(answer, Exception) else None
                    if wait is not None:
                        pause = max(pause, wait)
                        again.append(at)
            left = again
            if left and _now() + pause > until:
                break
            if left:
                await asyncio.sleep(pause or 0.001)
        return values

    async def publish(self, channel: str | bytes, message: bytes) -> None:
        await self.ask("SPUBLISH", channel, message)

    def servers(self) -> tuple[str, ...]:
        return self._map.primaries

    def server_of(self, tag: str) -> str | None:
        return self._map.owners[partitions.slot(tag)] or None

    def connection(self, server: str) -> AbstractConnection:
        return runtime.own_connection(
            self._client(server), socket_timeout=None, socket_connect_timeout=SERVER_TIMEOUT_S
        )

    def place(self, server: str | None = None) -> str:
        return server or ",".join(self._map.primaries or self._seeds)

    @property
    def round_trips(self) -> int:
        return sum(runtime.round_trips(client) for client in self._clients.values())

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        clients, self._clients = self._clients, {}
        await asyncio.gather(*(client.aclose() for client in clients.values()), return_exceptions=True)

    def on_change(self, changed: Callable[[], None]) -> None:
        self._listeners.append(changed)

    def look_again(self) -> None:
        self._look.set()

    @property
    def knows_servers(self) -> bool:
        return bool(self._map.primaries)

    @property
    def remarks(self) -> list[str]:
        return [f"{server}: {remark}" for server, said in sorted(self._remarks.items()) for remark in said]

    # -- asking until there is an answer -------------------------------------------------------------------------------

    async def _persist(self, tag: str, ask: Callable[[Redis], Awaitable[T]], follows: Sequence[Any] | None = None) -> T:
        """What the server of a slot says; `follows`: a command that may be asked where the slot is going to."""
        until = _now() + COMMAND_TIMEOUT_S
        while True:
            try:
                return await ask(self._client(await self._owner(tag)))
            except (*_AWAY, RedisError) as error:
                where = redirect(error)
                if where is not None and where.for_now and follows is not None:
                    there: T = await self._ask_there(where.for_now, follows)
                    return there
                pause = self.explain(error, tag)
                if pause is None or _now() + pause > until:
                    raise
            await asyncio.sleep(pause)

    async def _owner(self, tag: str) -> str:
        owner = self.server_of(tag)
        if owner is None:
            await self._look_now()
            owner = self.server_of(tag)
        if owner is None:
            raise RedisConnectionError("no server has this slot")
        return owner

    async def _pipeline(self, server: str | None, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if server is None:
            await self._look_now()
            return [RedisConnectionError("no server has this slot")] * len(commands)
        pipe = self._client(server).pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        try:
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        except (*_AWAY, RedisError) as error:
            return [error] * len(commands)
        return answers

    async def _ask_there(self, server: str, command: Sequence[Any]) -> Any:
        pipe = self._client(server).pipeline(transaction=False)
        pipe.execute_command("ASKING")
        pipe.execute_command(*command)
        answers = await pipe.execute()
        return answers[-1]

    def explain(self, error: BaseException, tag: str) -> float | None:
        where = redirect(error)
        if where is None:
            if not isinstance(error, _AWAY):
                return None
            server = self.server_of(tag)
            if server is not None:
                self._failed_at[server] = _now()
            where = Redirect(LATER_S, is_down=True)
        if where.moved is not None:
            return self._moved(*where.moved, tag)
        if where.is_down:
            self.look_again()
            self._start_looking()
        return where.pause_s

    def _moved(self, slot: int, place: str, tag: str) -> float:
        """A server says who has a slot: believed at once, and all are asked."""
        host, port = slot_map.host_and_port(place)
        asked = self.server_of(tag)
        if not host and asked:
            host = slot_map.host_and_port(asked)[0]
        owner = slot_map.address(host, port)
        pause = LATER_S if owner == asked else 0.001
        owners = (*self._map.owners[:slot], owner, *self._map.owners[slot + 1 :])
        primaries = self._map.primaries if owner in self._map.primaries else (*self._map.primaries, owner)
        self._learn(SlotMap(owners, primaries, self._map.replicas))
        self.look_again()
        return pause

    def _client(self, server: str) -> Redis:
        client = self._clients.get(server)
        if client is None:
            address = self._address
            who = ""
            if address.password is not None or address.username is not None:
                who = f"{quote(address.username or '', safe='')}:{quote(address.password or '', safe='')}@"
            url = f"{'rediss' if address.is_tls else 'redis'}://{who}{server}"
            pool = runtime.open_pool(url, self._most, self._tls, SERVER_TIMEOUT_S, retries=0)
            client = self._clients[server] = Redis.from_pool(pool)
        return client

    async def agree(self) -> None:
        shape, ours = keys.within(partitions.GLOBAL, keys.SHAPE), str(len(self.tags))
        await self.ask("SET", shape, ours, "NX")
        kept = (await self.ask("GET", shape) or b"").decode("ascii", "replace")
        if kept != ours:
            issue = f"the cluster is used with {kept} partitions by other processes, and this one was told {ours}"
            raise ValueError(f"TOKENRELAY_REDIS_PARTITIONS: {issue}")
        self._has_agreed = True

    # -- the map -------------------------------------------------------------------------------------------------------

    async def keep_map(self) -> None:
        """Owned by the process; ends only by being cancelled."""
        while True:
            self._look.clear()
            await self._look_now()
            if not self._has_agreed and self.knows_servers:
                await self._agree_late()
            try:
                async with asyncio.timeout(REFRESH_S if self.knows_servers else LATER_S):
                    await self._look.wait()
                await asyncio.sleep(LATER_S)  # signs come in crowds
            except TimeoutError:
                pass

    async def _agree_late(self) -> None:
        """The cluster was not there when the process began."""
        try:
            await self.insist()
        except (*_AWAY, RedisError) as error:
            log.warning("partitions_unknown", error=describe(error))

    async def _look_now(self) -> None:
        self._start_looking()
        if self._looking is not None:
            await asyncio.shield(self._looking)

    def _start_looking(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._find_map())

    async def _find_map(self) -> None:
        known = dict.fromkeys((*self._map.primaries, *self._map.replicas, *self._seeds))
        order = sorted(known, key=lambda server: (self._failed_at.get(server, 0.0), random.random()))  # noqa: S311
        for at in range(0, len(order), ASKED_AT_ONCE):
            found = await asyncio.gather(*(self._map_of(server) for server in order[at : at + ASKED_AT_ONCE]))
            maps = [each for each in found if each is not None]
            if maps:
                self._learn(max(maps, key=maps.count))
                await self._check_settings()
                return
        log.warning("cluster_unreachable", servers=len(order))

    async def _map_of(self, server: str) -> SlotMap | None:
        try:
            async with asyncio.timeout(MAP_TIMEOUT_S):
                rows = await self._client(server).execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            found = slot_map.parse(rows, server)
        except (*_AWAY, RedisError, TimeoutError, ValueError) as error:
            self._failed_at[server] = _now()
            if not isinstance(error, (*_AWAY, TimeoutError)):
                log.warning("cluster_map_refused", redis=server, error=describe(error))
            return None
        self._failed_at.pop(server, None)
        return found if found.primaries else None

    def _learn(self, found: SlotMap) -> None:
        before, self._map = self._map, found
        slots = {partitions.slot(tag) for tag in self.tags}
        if before.primaries == found.primaries and all(before.owners[slot] == found.owners[slot] for slot in slots):
            return
        log.info("cluster_changed", servers=list(found.primaries))
        for changed in self._listeners:
            try:
                changed()
            except Exception:  # one that fails at it leaves the others their news
                log.exception("cluster_change_failed")

    async def _check_settings(self) -> None:
        """Once a server: what its settings should be and are not."""
        for server in self._map.primaries:
            if server in self._checked:
                continue
            self._checked.add(server)
            try:
                async with asyncio.timeout(MAP_TIMEOUT_S):
                    read = [await self._client(server).config_get(name) for name in _SETTINGS]
            except (*_AWAY, RedisError, TimeoutError):
                continue  # not every service lets them be read
            settings = {name: value for each in read for name, value in each.items()}
            self._remarks[server] = list(_remarks(settings))
            for remark in self._remarks[server]:
                log.warning("cluster_setting", redis=server, remark=remark)


_SETTINGS: Final = ("cluster-node-timeout", "cluster-require-full-coverage", "maxmemory-policy")


def _remarks(settings: dict[str, str]) -> Iterable[str]:
    timeout = settings.get("cluster-node-timeout", "")
    if timeout.isdigit() and not 2_000 <= int(timeout) <= 5_000:
        yield f"cluster-node-timeout is {timeout}, 2000 to 5000 is right"
    if settings.get("cluster-require-full-coverage") == "yes":
        yield "cluster-require-full-coverage is yes: one part that is away stops all"
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}: streams may vanish, noeviction is right"


def _tag_of(command: Sequence[Any]) -> str:
    key = command[1]
    return partitions.tag_in(key.decode("ascii", "replace") if isinstance(key, bytes) else str(key))


def _now() -> float:
    return asyncio.get_running_loop().time()
