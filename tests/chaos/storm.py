"""A fleet and its network in a storm, seeded: what is done to them, in which order. Knows no client."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import redis

from tests.fleet import Fleet
from tests.network import Link, Proxy, Which
from tokenrelay.protocol.store import keys

ZOMBIE_S = 9.0
"""Longer than a lease, its suspicion and two looks: what was paused is a zombie when it wakes."""


FORGOTTEN_S = 12.0
"""Longer than every timeout for a connection that is silent."""


RUBBISH = (b"", b"\xc1", b"\xff" * 40, b"9" * 30, b"nan", b"\x93\xa1t\x01", b"9\n\x93\xa1t\x01", b"[[", b"{}" * 999)
"""Short entries, numbers that are none, bytes that are no text."""


class Storm:
    """Draws one trouble after the other until it is told to stop; leaves everything running."""

    def __init__(self, fleet: Fleet, proxies: list[Proxy], store: Proxy, dice: random.Random) -> None:
        self._fleet = fleet
        self._proxies = proxies  # between clients and edges
        self._store = store  # between edges, workers and Redis
        self._dice = dice
        self._pending: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()
        self._troubles: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (4, self.cut_live_feeds),
            (3, self.cut_all_connections),
            (3, self.kill_worker),
            (2, self.kill_edge),
            (2, self.pause_worker),
            (2, self.drain_edge),
            (2, self.retire_worker),
            (1, self.flush_scripts),
            (1, self.pause_redis),
            (1, self.kill_all_workers),
            (1, self.deny_channels),
            (4, self.scribble),
            (2, self.stop_edge_for_a_while),
            (3, self.reset_clients),
            (2, self.stall_clients),
            (2, self.forget_clients),
            (2, self.reset_store),
            (2, self.stall_store),
            (2, self.forget_store),
        ]

    async def rage(self, seconds: float) -> None:
        weights = [weight for weight, _ in self._troubles]
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            [(_, trouble)] = self._dice.choices(self._troubles, weights)
            self.done[getattr(trouble, "__name__", "?")] += 1
            await trouble()
            await asyncio.sleep(self._dice.uniform(0.2, 1.5))
        await asyncio.gather(*self._pending)

    async def cut_live_feeds(self) -> None:
        self._ask_redis("CLIENT", "KILL", "TYPE", "pubsub")

    async def cut_all_connections(self) -> None:
        self._ask_redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def flush_scripts(self) -> None:
        self._ask_redis("SCRIPT", "FLUSH")

    async def kill_worker(self) -> None:
        index = self._dice.randrange(len(self._fleet.workers))
        await asyncio.to_thread(self._fleet.kill_worker, index)
        self._fleet.restart_worker(index)

    async def kill_all_workers(self) -> None:
        """Nobody renews a lease: what had output ends as lost, the rest begins anew with the first that comes back."""
        for index in range(len(self._fleet.workers)):
            await asyncio.to_thread(self._fleet.kill_worker, index)
            self._fleet.restart_worker(index)

    async def deny_channels(self) -> None:
        """Error replies to all that listen and publish, until an operator sets it right."""
        self._ask_redis("ACL", "SETUSER", "default", "resetchannels")
        await asyncio.sleep(self._dice.uniform(0.2, 2.0))
        self._ask_redis("ACL", "SETUSER", "default", "allchannels")

    async def scribble(self) -> None:
        """What nobody of ours wrote, where all of ours read: logs, metadata, the queue, leases, presence, health, and
        on the channels. It lies under streams of its own, for a minute: each costs itself alone."""
        store, bad = self._fleet.redis(), f"scribbled-{self._dice.getrandbits(32):08x}"
        rubbish = self._dice.choice(RUBBISH)
        written = {"state": "queued", "owner": "anonymous", "epoch": rubbish, "needs": rubbish}
        store.hset(keys.meta(bad), mapping=written)
        store.xadd(keys.log(bad), {"e": rubbish}, id="7-0")
        store.zadd(keys.WAITING, {bad: 1, rubbish: 1})
        store.zadd(keys.LEASES, {f"{bad}-2": 1, rubbish: 1})
        store.zadd(keys.owner("anonymous"), {bad: 1, rubbish: 1})
        store.hset(keys.WORKERS, mapping={bad: rubbish})
        store.hset(keys.HEALTH, mapping={bad: rubbish})
        store.hset(keys.NEEDS, mapping={bad: rubbish})
        for channel in (keys.WAKE, keys.CANCEL, keys.live(bad)):
            store.publish(channel, rubbish)
        for name in (keys.meta(bad), keys.log(bad), keys.owner("anonymous"), keys.HEALTH):
            store.expire(name, 60)
        store.close()

    async def retire_worker(self) -> None:
        index = self._dice.randrange(len(self._fleet.workers))
        await asyncio.to_thread(self._fleet.kill_worker, index, signal.SIGTERM)
        self._fleet.restart_worker(index)

    async def pause_worker(self) -> None:
        """It goes on in the background: a zombie among the living."""
        worker = self._fleet.workers[self._dice.randrange(len(self._fleet.workers))]
        worker.send_signal(signal.SIGSTOP)
        self._later(ZOMBIE_S, lambda: worker.send_signal(signal.SIGCONT))

    async def kill_edge(self) -> None:
        index = self._dice.randrange(len(self._fleet.edges))
        await asyncio.to_thread(self._fleet.kill_edge, index)
        self._fleet.start_edge(index)

    async def drain_edge(self) -> None:
        index = self._dice.randrange(len(self._fleet.edges))
        await asyncio.to_thread(self._fleet.kill_edge, index, signal.SIGTERM)
        self._fleet.start_edge(index)

    async def pause_redis(self) -> None:
        self._fleet.signal_redis(signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(0.5, 6.0))
        self._fleet.signal_redis(signal.SIGCONT)

    async def stop_edge_for_a_while(self) -> None:
        """An event loop that stalls."""
        edge = self._fleet.edges[self._dice.randrange(len(self._fleet.edges))]
        edge.send_signal(signal.SIGSTOP)
        self._later(self._dice.uniform(0.5, 6.0), lambda: edge.send_signal(signal.SIGCONT))

    # -- the network between clients and edges -------------------------------------------------------------------------

    async def reset_clients(self) -> None:
        self._dice.choice(self._proxies).reset(self._some(0.5))

    async def stall_clients(self) -> None:
        proxy = self._dice.choice(self._proxies)
        proxy.silence()
        self._later(self._dice.uniform(0.5, 4.0), proxy.flow)

    async def forget_clients(self) -> None:
        """Half open: neither side hears of it. Long after that the network forgets them for good."""
        proxy, some = self._dice.choice(self._proxies), self._some(0.3)
        proxy.silence(some, and_new_ones=False)
        self._later(FORGOTTEN_S, lambda: proxy.reset(some))

    # -- the network between edges, workers and Redis ------------------------------------------------------------------

    async def reset_store(self) -> None:
        self._store.reset(self._some(0.5))

    async def stall_store(self) -> None:
        self._store.silence()
        self._later(self._dice.uniform(0.5, 3.0), self._store.flow)

    async def forget_store(self) -> None:
        some = self._some(0.3)
        self._store.silence(some, and_new_ones=False)
        self._later(FORGOTTEN_S, lambda: self._store.reset(some))

    def _some(self, share: float) -> Which:
        """A choice among the connections by their number, the same for the same seed."""
        salt = self._dice.random()

        def which(link: Link) -> bool:
            return random.Random(f"{salt} {link.number}").random() < share

        return which

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            do()

        task = asyncio.create_task(wait())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _ask_redis(self, *command: str) -> None:
        client = self._fleet.redis()
        try:
            client.execute_command(*command)
        except redis.ConnectionError:
            pass
        finally:
            client.close()
