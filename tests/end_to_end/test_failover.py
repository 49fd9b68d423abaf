"""A primary dies, Sentinel promotes a replica that lacks a tail: the workers send it again, nobody notices a hole."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from tests.fleet import Fleet, until
from tests.wire import EventPair, Sse, Ws, call, text_of, words
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.protocol.runtime.redis_server import find_server

SERVICE = "house"


class Replicated:
    """A primary, a replica and one Sentinel that watches them, on loopback."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tr-sentinel-"))
        self.ports = [free_port(), free_port()]
        self._sentinel_port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self._sentinel_port}/{SERVICE}"

    def __enter__(self) -> Replicated:
        try:
            primary, replica = self.ports
            self._start(primary)
            until(lambda: bool(self.client(0).ping()), "no primary", redis.RedisError)
            self._start(replica, "--replicaof", "127.0.0.1", str(primary))
            until(self._is_replicating, "no replica", redis.RedisError)
            self._start_sentinel(primary)
            until(self._knows_its_replica, "no sentinel", redis.RedisError)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def client(self, index: int) -> Any:
        return redis.Redis(host="127.0.0.1", port=self.ports[index], socket_timeout=2)

    def is_promoted(self) -> bool:
        return bool(self.client(1).info("replication")["role"] == "master")

    def _is_replicating(self) -> bool:
        return bool(self.client(1).info("replication").get("master_link_status") == "up")

    def _knows_its_replica(self) -> bool:
        sentinel = redis.Redis(host="127.0.0.1", port=self._sentinel_port, socket_timeout=2)
        return int(sentinel.sentinel_master(SERVICE)["num-slaves"]) == 1  # type: ignore[no-untyped-call]

    def _start(self, port: int, *options: str) -> None:
        folder = self._folder / str(port)
        folder.mkdir()
        fixed = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        fixed += ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
        self._run([*fixed, *options])

    def _start_sentinel(self, primary: int) -> None:
        config = self._folder / "sentinel.conf"
        config.write_text(
            f"port {self._sentinel_port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 5000\n"
        )
        self._run([str(config), "--sentinel"])

    def _run(self, arguments: list[str]) -> None:
        quiet = subprocess.DEVNULL
        self.processes.append(subprocess.Popen([str(find_server()), *arguments], stdout=quiet, stderr=quiet))

    def _stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)


def test_a_failover_to_a_replica_short_of_a_tail_loses_nothing() -> None:
    async def viewer(url: str, number: int) -> list[EventPair]:
        body = {"message": "hello", "model": "scripted?tokens=500&interval_ms=20"}
        if number % 2:
            async with Ws(url) as socket:
                return await socket.take(await socket.start(body))
        async with Sse.post(url, body) as stream:
            return await stream.take()

    async def scene(sentinels: Replicated, fleet: Fleet) -> None:
        viewers = [asyncio.create_task(viewer(fleet.urls[number // 2 % 2], number)) for number in range(12)]
        await asyncio.sleep(2)
        primary, replica, _ = sentinels.processes
        replica.send_signal(signal.SIGSTOP)
        sentinels.client(0).client_kill_filter(_type="slave")  # Redis 6 has no newer word
        await asyncio.sleep(0.7)  # what is written now, the readers have and the replica will never have
        primary.kill()
        replica.send_signal(signal.SIGCONT)
        await asyncio.to_thread(until, sentinels.is_promoted, "nobody was promoted", redis.RedisError)
        for events in await asyncio.gather(*viewers):
            assert text_of(events) == words(500)
            assert events[-1][1]["finish_reason"] == "stop"
        deadline = time.monotonic() + 20
        while [(await call("GET", f"{url}/readyz"))[0] for url in fleet.urls] != [200, 200]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)

    with Replicated() as sentinels, Fleet(edges=2, workers=1, env={"TOKENRELAY_REDIS_URL": sentinels.url}) as fleet:
        asyncio.run(scene(sentinels, fleet))
