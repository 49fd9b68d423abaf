"""Several processes on one port answer as one: counters are sums and never fall, gauges are those of the living."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import psutil
import pytest

from tests.end_to_end.test_processes import serving
from tests.fleet import Fleet, one_server, until, workers_seen
from tests.wire import Sse, text_of, words
from tokenrelay.loadtest.fleet import free_port

HELD = 8
PATIENCE_S = 20.0


class Pair:
    """The parents of two edges and of two workers."""

    def __init__(self, fleet: Fleet) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        env = {
            **fleet.env, "TOKENRELAY_PORT": str(self.port), "TOKENRELAY_METRICS_PORT": str(self.metrics_port),
            "TMPDIR": str(fleet.folder),
        }  # fmt: skip
        self.parents = [
            subprocess.Popen(
                [sys.executable, "-m", role, "--processes", "2"],
                env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )
            for role in ("server", "workers")
        ]  # fmt: skip
        self.folder = fleet.folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read(self, name: str, *, of_workers: bool = False) -> float:
        """Of whichever process is asked: a connection of its own each time."""
        root = f"http://127.0.0.1:{self.metrics_port}" if of_workers else self.url
        with urllib.request.urlopen(f"{root}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        [value] = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
        return float(value)

    def all_say(self, name: str, value: float, *, of_workers: bool = False) -> bool:
        """Six in a row, so that very likely both were asked."""
        return all(self.read(name, of_workers=of_workers) == value for _ in range(6))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Fleet(edges=0, workers=0) as fleet:
        made = Pair(fleet)
        try:
            until(lambda: workers_seen(made.url) == 2, "not ready", OSError)
            yield made
        finally:
            for parent in made.parents:
                if parent.poll() is None:
                    os.killpg(parent.pid, signal.SIGKILL)
                    parent.wait(10)


async def one(url: str) -> str:
    async with Sse.post(url, {"message": "hello", "model": "scripted?tokens=10"}) as stream:
        return text_of(await stream.take())


async def until_all_say(pair: Pair, name: str, value: float, *, of_workers: bool = False) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if await asyncio.to_thread(pair.all_say, name, value, of_workers=of_workers):
                    return
            except OSError:
                pass  # asked one that has just died
            await asyncio.sleep(0.05)


STARTED = 'tokenrelay_streams_started_total{transport="sse"}'
ENDED = 'tokenrelay_streams_ended_total{model="scripted",outcome="completed",provider="Scripted"}'
SESSIONS = 'tokenrelay_sessions{transport="sse"}'
ROOM = "tokenrelay_generations_max"


def test_two_processes_are_one_and_the_gauges_of_a_dead_one_go(pair: Pair) -> None:
    async def scene() -> None:
        assert set(await asyncio.gather(*(one(pair.url) for _ in range(20)))) == {words(10)}
        await until_all_say(pair, STARTED, 20)
        await until_all_say(pair, ENDED, 20, of_workers=True)
        await until_all_say(pair, ROOM, 1_000, of_workers=True)
        await until_all_say(pair, SESSIONS, 0)
        held = [
            Sse.post(pair.url, {"message": "x", "model": "scripted?tokens=9999&interval_ms=20"}) for _ in range(HELD)
        ]
        for stream in held:
            await stream.__aenter__()
        readers = [asyncio.create_task(stream.take()) for stream in held]
        try:
            await until_all_say(pair, SESSIONS, HELD)
            await until_all_say(pair, STARTED, 20 + HELD)
            edge, worker = (serving(parent)[0] for parent in pair.parents)
            theirs = sum(
                item.status == psutil.CONN_ESTABLISHED and item.laddr.port == pair.port
                for item in psutil.Process(edge).net_connections()
            )
            pair.parents[0].send_signal(signal.SIGSTOP)  # so that nobody takes its place yet
            os.kill(edge, signal.SIGKILL)
            await until_all_say(pair, SESSIONS, HELD - theirs)
            pair.parents[0].send_signal(signal.SIGCONT)
            os.kill(worker, signal.SIGKILL)
            # What the dead ones counted happened all the same, also once others have taken their place.
            await until_all_say(pair, STARTED, 20 + HELD)
            await until_all_say(pair, ENDED, 20, of_workers=True)
            await until_all_say(pair, ROOM, 1_000, of_workers=True)
            assert set(await asyncio.gather(*(one(pair.url) for _ in range(10)))) == {words(10)}
            await until_all_say(pair, STARTED, 30 + HELD)
            await until_all_say(pair, ENDED, 30, of_workers=True)
        finally:
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            for stream in held:
                await stream.__aexit__()

    asyncio.run(scene())
    assert list(pair.folder.glob("tokenrelay-counts-*"))
    for parent in pair.parents:
        parent.terminate()
    assert [parent.wait(20) for parent in pair.parents] == [0, 0]
    assert not list(pair.folder.glob("tokenrelay-counts-*"))  # nothing is left behind


@one_server("there is no fleet")
def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        env = {**Fleet().env, "TOKENRELAY_METRICS_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "-m", "workers"], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
