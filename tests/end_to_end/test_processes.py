"""Several processes of a role on one box: one port, each with a socket of its own; one that dies is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.fleet import Fleet, until, workers_seen
from tests.wire import Sse, text_of, words
from tokenrelay.loadtest.fleet import free_port

ROLES = (["-m", "server", "--processes", "2"], ["-m", "workers", "--processes", "2"])


@pytest.fixture
def pair() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """An edge's address, and the two parents: the edges', the workers'."""
    with Fleet(edges=0, workers=0) as fleet:
        port = free_port()
        env = {**fleet.env, "TOKENRELAY_PORT": str(port)}
        quiet = subprocess.DEVNULL
        parents = [
            subprocess.Popen([sys.executable, *role], env=env, stdout=quiet, stderr=quiet, start_new_session=True)
            for role in ROLES
        ]
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: workers_seen(url) == 2, "not ready", OSError)
            yield url, parents
        finally:
            for parent in parents:
                if parent.poll() is None:
                    os.killpg(parent.pid, signal.SIGKILL)
                    parent.wait(10)


def serving(parent: subprocess.Popen[bytes]) -> list[int]:
    """Pids of the children that do the work (multiprocessing has one of its own beside them)."""
    children = psutil.Process(parent.pid).children()
    return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]


async def some_streams(url: str) -> list[str]:
    async def one() -> str:
        async with Sse.post(url, {"message": "hello", "model": "scripted?tokens=30&interval_ms=5"}) as stream:
            return text_of(await stream.take())

    return list(await asyncio.gather(*(one() for _ in range(20))))


def test_two_processes_of_each_role_share_the_work_and_are_replaced(
    pair: tuple[str, list[subprocess.Popen[bytes]]],
) -> None:
    url, parents = pair
    assert set(asyncio.run(some_streams(url))) == {words(30)}
    before = [serving(parent) for parent in parents]
    assert [len(pids) for pids in before] == [2, 2]
    for pids in before:
        os.kill(pids[0], signal.SIGKILL)
    for parent, pids in zip(parents, before, strict=True):
        until(lambda parent=parent, pids=pids: len(set(serving(parent)) - {pids[0]}) == 2, "not replaced", psutil.Error)
    until(lambda: workers_seen(url) >= 2, "not ready again", OSError)
    assert set(asyncio.run(some_streams(url))) == {words(30)}


def test_a_signal_to_the_parent_ends_all_of_it(pair: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    _, parents = pair
    pids = [pid for parent in parents for pid in serving(parent)]
    for parent in parents:
        parent.terminate()
    assert [parent.wait(20) for parent in parents] == [0, 0]
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "children are left behind")
