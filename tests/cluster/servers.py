"""A Redis or Valkey Cluster on loopback: primaries with replicas, each to be killed, paused, failed over; slots to be
moved, at once or key by key. Knows nothing of what is kept in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.runtime.launcher import Launcher, wait_until
from tokenrelay.protocol.runtime.redis_server import arguments, find_server

SLOTS = 16_384
"""Of every cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""

NODE_TIMEOUT_MS = 2_000
CHANGE_S = 30.0
MOVED_AT_ONCE = 200
ANSWER_S = 2.0
"""A server that takes longer to answer is not asked who is who."""


class Server:
    """One process and a client of it."""

    def __init__(self, launcher: Launcher, binary: Path, options: Sequence[str]) -> None:
        self._launcher, self._binary, self._options = launcher, binary, options
        self.port, self.bus_port = free_port(), free_port()
        self.client: Any = redis.Redis(port=self.port, socket_timeout=5)
        self._who: Any = redis.Redis(port=self.port, socket_timeout=ANSWER_S)
        self.folder = launcher.folder / str(self.port)
        self.folder.mkdir()
        self.is_paused = False
        self.start()

    def __repr__(self) -> str:
        return f"<Server {self.port}{'' if self.is_alive else ' dead'}{' paused' if self.is_paused else ''}>"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Also again, after `kill`: as whoever the others take it for. Returns before it answers."""
        ours = {
            "port": str(self.port), "bind": "127.0.0.1", "unixsocket": "", "cluster-enabled": "yes",
            "cluster-port": str(self.bus_port), "cluster-config-file": "nodes.conf", "dir": str(self.folder),
            "cluster-require-full-coverage": "no", "repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1",
        }  # fmt: skip
        options = [part for name, value in ours.items() for part in (f"--{name}", value)]
        command = [str(self._binary), *arguments(self.folder), *options, *self._options]
        self.process: subprocess.Popen[bytes] = self._launcher.start("redis", command, os.environ)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.is_paused = False

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, *command: Any) -> Any:
        """About the cluster. Raises RedisError soon."""
        return self._who.execute_command(*command)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    def is_primary(self) -> bool:
        return bool(self.ask("ROLE")[0] == b"master")

    def slots(self) -> list[tuple[int, int, int]]:
        """First, last, and the port of who has them, as this server sees it."""
        return sorted((row[0], row[1], int(row[2][1])) for row in self.ask("CLUSTER", "SLOTS"))


class Servers:
    """`with Servers(primaries=3, replicas=1) as servers: servers.url`; `replicas` of each primary, `options` as
    redis-server takes them. Start it in a thread that outlives it (die_with_parent.tied)."""

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        binary: Path | None = None,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
        options: Sequence[str] = (),
        launcher: Launcher | None = None,
    ) -> None:
        self._launcher = launcher or Launcher("tr-cluster-")
        self._owns_launcher = launcher is None
        self._binary = binary or find_server()
        self._options = ("--cluster-node-timeout", str(node_timeout_ms), *options)
        self._shape = primaries, replicas
        self.all: list[Server] = []

    def __repr__(self) -> str:
        return f"<Servers {self.url}>"

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(server.place for server in self.all)

    def __enter__(self) -> Servers:
        try:
            self.start()
        except BaseException:
            self._launcher.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._owns_launcher:
            self._launcher.stop()

    def start(self) -> None:
        primaries, replicas = self._shape
        self.all = [Server(self._launcher, self._binary, self._options) for _ in range(primaries * (1 + replicas))]
        for server in self.all:
            _until(server.client.ping, f"{server} does not answer\n{self._launcher.last_words()}")
        first = self.all[0]
        for epoch, server in enumerate(self.all, start=1):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            if server is not first:
                first.ask("CLUSTER", "MEET", "127.0.0.1", server.port, server.bus_port)
        for at, server in enumerate(self.all[:primaries]):
            low, high = SLOTS * at // primaries, SLOTS * (at + 1) // primaries - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", low, high)
        _until(lambda: all(self._knows_all(server) for server in self.all), "the servers do not meet")
        for at, server in enumerate(self.all[primaries:]):
            of = self.all[at % primaries]
            _until(lambda s=server, o=of: s.ask("CLUSTER", "REPLICATE", o.id), "no replica")
        self.wait_until_whole()

    def _knows_all(self, server: Server) -> bool:
        nodes = server.ask("CLUSTER", "NODES")
        return len(nodes.splitlines()) == len(self.all) and b"handshake" not in nodes

    # -- who is who ----------------------------------------------------------------------------------------------------

    def living(self) -> list[Server]:
        """Those that can answer."""
        return [server for server in self.all if server.is_alive and not server.is_paused]

    def primaries(self) -> list[Server]:
        """Those that live and take themselves for one."""
        return [server for server in self.living() if server.is_primary()]

    def owner_of(self, slot: int) -> Server:
        """As most of those that live see it; after a failover not all of them do at once."""
        seen: Counter[int] = Counter()
        for server in self.living():
            seen.update(port for low, high, port in server.slots() if low <= slot <= high)
        if not seen:
            raise LookupError(f"nobody has slot {slot}")
        return self.at(seen.most_common(1)[0][0])

    def shares(self) -> dict[int, int]:
        """Port of each primary → how many slots it has, by what it says itself."""
        return {
            server.port: sum(high - low + 1 for low, high, port in server.slots() if port == server.port)
            for server in self.primaries()
        }

    def replica_of(self, primary: Server) -> Server:
        """One that lives, whether or not the primary does."""
        for server in self.living():
            if server is primary:
                continue
            role = server.ask("ROLE")
            if role[0] == b"slave" and int(role[2]) == primary.port:
                return server
        raise LookupError(f"{primary} has no replica")

    def at(self, port: int) -> Server:
        return next(server for server in self.all if server.port == port)

    def other_primary(self, than: Server) -> Server:
        return next(server for server in self.primaries() if server is not than and self.shares()[server.port])

    def is_whole(self) -> bool:
        """Every slot has a primary that all agree on, nobody takes another for dead, and every replica follows."""
        living = self.living()
        for server in living:
            info = server.ask("CLUSTER", "INFO")
            if b"cluster_state:ok" not in info or b"cluster_slots_ok:%d" % SLOTS not in info:
                return False
            role = server.ask("ROLE")
            if role[0] == b"slave" and role[3] != b"connected":
                return False
        return len({str(server.slots()) for server in living}) == 1

    def wait_until_whole(self) -> None:
        _until(self.is_whole, f"the cluster does not become whole\n{self._launcher.last_words()}")

    def wait_until_replaced(self, primary: Server) -> None:
        """Nobody takes it for the primary of a slot any more, and every slot has one."""

        def is_replaced() -> bool:
            maps = [server.slots() for server in self.living()]
            return all(
                sum(high - low + 1 for low, high, _ in seen) == SLOTS and primary.port not in {row[2] for row in seen}
                for seen in maps
            )

        _until(is_replaced, f"nobody takes over from {primary}")

    # -- what happens to clusters --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def tail_unreplicated(self, primary: Server) -> Iterator[None]:
        """What is written meanwhile its replica does not get, if the primary dies before the block ends."""
        replica = self.replica_of(primary)
        replica.pause()
        primary.ask("CLIENT", "KILL", "TYPE", "replica")  # what it was sent by now it will still read
        try:
            yield
        finally:
            replica.go_on()

    def kill_with_tail(self, primary: Server, tail_s: float = 1.2) -> None:
        """It dies, and what was written in its last moments with it."""
        with self.tail_unreplicated(primary):
            time.sleep(tail_s)
            primary.kill()

    def fail_over(self, primary: Server) -> Server:
        """Its replica takes over, in agreement. Gives the replica, once it has."""
        replica = self.replica_of(primary)

        def has_taken_over() -> bool:
            if replica.is_primary():
                return True
            replica.ask("CLUSTER", "FAILOVER")
            return wait_until(replica.is_primary, 6.0, RedisError)  # an attempt takes 5 s at most

        _until(has_taken_over, f"{replica} does not take over")
        self.wait_until_replaced(primary)
        return replica

    def move_at_once(self, slot: int, to: Server) -> None:
        """Valkey 9's atomic migration (https://valkey.io/commands/cluster-migrateslots/). Returns when all know."""
        _until(lambda: self._has_begun(slot, to), f"slot {slot} is not moved")
        _until(lambda: self._all_say(slot, to), f"slot {slot} has not come to {to}: {self._migrations(slot)}")

    def _has_begun(self, slot: int, to: Server) -> bool:
        owner = self.owner_of(slot)
        if owner is not to:
            owner.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", to.id)
        return True

    def _migrations(self, slot: int) -> str:
        return str(self.owner_of(slot).ask("CLUSTER", "GETSLOTMIGRATIONS"))

    def _all_say(self, slot: int, owner: Server) -> bool:
        found = [
            port for server in self.living() for low, high, port in server.slots() if low <= slot <= high
        ]  # one for each of them
        return len(found) == len(self.living()) and set(found) == {owner.port}

    def begin_move(self, slot: int, to: Server) -> Server:
        """The first half of `move_key_by_key`: nothing has been moved yet. Gives the owner until then."""
        owner = self.owner_of(slot)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        return owner

    def move_keys(self, slot: int, owner: Server, to: Server, most: int = 0) -> int:
        """So many of its keys, or all (0); gives how many there were."""
        moved = 0
        while names := owner.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most or MOVED_AT_ONCE):
            owner.client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *names)
            moved += len(names)
            if most:
                break
        return moved

    def end_move(self, slot: int, owner: Server, to: Server) -> None:
        """The rest of its keys, and everybody is told."""
        # Before its new owner is told: one that hears of it and still has keys deletes them (cluster-spec, UPDATE).
        self.move_keys(slot, owner, to)
        for server in (to, owner, *(each for each in self.primaries() if each not in (owner, to))):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        _until(lambda: self._all_say(slot, to), f"slot {slot} has not come to {to}")

    def move_key_by_key(self, slot: int, to: Server) -> None:
        """As `redis-cli --cluster reshard` does it (https://redis.io/docs/latest/commands/cluster-setslot/)."""
        owner = self.begin_move(slot, to)
        self.move_keys(slot, owner, to)
        self.end_move(slot, owner, to)

    def forget_scripts(self) -> None:
        for server in self.living():
            server.client.script_flush()

    def flush(self) -> None:
        for server in self.primaries():
            server.client.flushall()


def can_move_at_once(server: Server) -> bool:
    """Whether it knows atomic migration."""
    try:
        server.ask("CLUSTER", "GETSLOTMIGRATIONS")
    except ResponseError:
        return False
    return True


def _until(holds: Any, otherwise: str) -> None:
    if not wait_until(holds, CHANGE_S, RedisError, OSError, LookupError):
        raise TimeoutError(otherwise)
