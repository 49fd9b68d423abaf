"""Streams subscribed to before they exist: the next start finds one, unless its subscription proves nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from tokenrelay.protocol.runtime.feeds import Feeds
from tokenrelay.protocol.store import keys
from tokenrelay.server.live import presubscribed
from tokenrelay.server.live.presubscribed import Presubscribed


class Live:
    """A live feed whose Redis acknowledges at once, or (`answers` False) never."""

    def __init__(self) -> None:
        self.connects = 1
        self.is_connected = True
        self.answers = True
        self.wanted: set[bytes] = set()

    def want(self, channel: bytes) -> None:
        self.wanted.add(channel)

    def mark(self, channel: bytes) -> tuple[str, int] | None:
        return ("", self.connects) if channel in self.wanted and self.is_connected else None

    async def subscribe(self, channel: bytes) -> None:
        self.wanted.add(channel)
        await asyncio.sleep(0)
        if not self.answers:
            raise TimeoutError

    def unsubscribe(self, channel: bytes) -> None:
        self.wanted.discard(channel)


def play(scene: Callable[[Live, Presubscribed], Coroutine[Any, Any, None]]) -> None:
    live, numbers = Live(), itertools.count()
    asyncio.run(scene(live, Presubscribed(cast(Feeds, live), lambda: f"{next(numbers):032x}", lambda _: True)))


def test_each_is_taken_once_and_stays_subscribed() -> None:
    async def scene(live: Live, some: Presubscribed) -> None:
        assert some.take() is None
        await some.fill()
        taken = [some.take() for _ in range(presubscribed.MOST)]
        assert len(set(taken)) == presubscribed.MOST
        assert live.wanted == {keys.live(stream_id).encode() for stream_id in taken if stream_id}
        assert some.take() is None

    play(scene)


def test_they_are_filled_up_when_half_are_gone() -> None:
    async def scene(_live: Live, some: Presubscribed) -> None:
        await some.fill()
        was_low = some.is_low
        for _ in range(presubscribed.MOST // 2):
            some.take()
        assert (was_low, some.is_low) == (False, True)
        await some.fill()
        assert len({some.take() for _ in range(presubscribed.MOST)}) == presubscribed.MOST

    play(scene)


def test_those_of_another_connection_are_not_taken_and_are_given_up() -> None:
    async def scene(live: Live, some: Presubscribed) -> None:
        await some.fill()
        before = set(live.wanted)
        live.is_connected = False
        assert some.take() is None
        live.connects = 2
        live.is_connected = True
        assert some.take() is None
        await some.fill()
        assert len(live.wanted) == presubscribed.MOST
        assert not before & live.wanted
        assert some.take() is not None

    play(scene)


@pytest.mark.parametrize("goes_away", [False, True])
def test_what_is_not_acknowledged_is_given_up(goes_away: bool) -> None:
    async def scene(live: Live, some: Presubscribed) -> None:
        live.answers = goes_away
        filling = asyncio.create_task(some.fill())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if goes_away:
            live.connects = 2
        await filling
        assert some.take() is None
        assert not live.wanted

    play(scene)
