"""The small event and the small queue do what asyncio's do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tokenrelay.server.net.lean_event import LeanEvent, LeanQueue

FLAGS: list[Callable[[], Any]] = [asyncio.Event, LeanEvent]
QUEUES: list[Callable[[], Any]] = [asyncio.Queue, LeanQueue]


@pytest.mark.parametrize("made", FLAGS)
def test_all_that_wait_go_on_when_it_is_set(made: Callable[[], Any]) -> None:
    async def run() -> None:
        flag = made()
        assert not flag.is_set()
        waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        flag.set()
        flag.clear()  # who waited has been woken all the same
        assert await asyncio.gather(*waiting) == [True] * 3
        assert not flag.is_set()
        flag.set()
        assert await flag.wait()

    asyncio.run(run())


@pytest.mark.parametrize("made", FLAGS)
def test_one_that_is_cancelled_takes_nobody_with_it(made: Callable[[], Any]) -> None:
    async def run() -> None:
        flag = made()
        gone, stays = asyncio.create_task(flag.wait()), asyncio.create_task(flag.wait())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        flag.set()
        assert await asyncio.wait_for(stays, 5)
        assert (await asyncio.gather(gone, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    asyncio.run(run())


@pytest.mark.parametrize("made", QUEUES)
def test_what_is_put_comes_out_in_order(made: Callable[[], Any]) -> None:
    async def run() -> None:
        queue = made()
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert (queue.qsize(), queue.empty()) == (2, False)
        assert [await queue.get(), await queue.get()] == [1, 2]
        assert queue.empty()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.put_nowait(3)
        assert await asyncio.wait_for(waiting, 5) == 3

    asyncio.run(run())


@pytest.mark.parametrize("made", QUEUES)
def test_two_that_take_get_one_each(made: Callable[[], Any]) -> None:
    async def run() -> None:
        queue = made()
        waiting = [asyncio.create_task(queue.get()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.put_nowait(1)
        await asyncio.sleep(0)
        queue.put_nowait(2)
        assert sorted(await asyncio.wait_for(asyncio.gather(*waiting), 5)) == [1, 2]

    asyncio.run(run())


def test_one_that_is_cancelled_is_forgotten() -> None:
    async def run() -> None:
        flag = LeanEvent()
        gone = asyncio.create_task(flag.wait())
        await asyncio.sleep(0)
        assert repr(flag) == "<LeanEvent clear | 1 wait>"
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert repr(flag) == "<LeanEvent clear | 0 wait>"

    asyncio.run(run())


def test_they_are_small() -> None:
    flag = LeanEvent()
    assert not hasattr(flag, "__dict__")
    assert sys.getsizeof(flag) < 100
    assert repr(LeanQueue()) == "<LeanQueue 0 items>"
    assert repr(flag) == "<LeanEvent clear | 0 wait>"
