"""One real server as the machine sees it: runs scripts between two looks at its clock, and reads everything back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.model.faults import Fault
from tests.model.state import Window
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import Argument, Script

PAST_MS = 100_000
"""What is overdue has been so for that long."""


class World:
    """With a `fault` planted, or none."""

    def __init__(self, redis: Any, fault: Fault | None = None) -> None:
        self.redis = redis
        self._fault = fault
        self._ear: Any = None  # None outside a run
        self._heard: list[tuple[str, bytes]] = []  # and nobody has asked for it yet
        self.at: Window = (0, 0)

    def begin(self) -> None:
        self.redis.flushall()
        self._heard.clear()
        self._ear = self.redis.pubsub(ignore_subscribe_messages=True)
        self.listen(keys.WAKE)
        self.listen(keys.CANCEL)

    def end(self) -> None:
        self._ear.close()

    def listen(self, channel: str) -> None:
        """Returns when it is known there."""
        self._ear.subscribe(channel)
        self._catch_up()

    def heard(self) -> list[tuple[str, bytes]]:
        """What was published since the last time."""
        self._catch_up()
        found, self._heard = self._heard, []
        return found

    def _catch_up(self) -> None:
        """A PING on the same connection is answered after everything before it."""
        self._ear.ping("so far")
        while (message := self._ear.get_message(timeout=10)) is None or message["type"] != "pong":
            if message is not None:
                self._heard.append((message["channel"].decode(), message["data"]))

    def run(self, script: Script, arguments: Sequence[Argument]) -> Any:
        """`at` is when, by the server's clock. No two in the same millisecond, so that they have an order."""
        while ms(self._pipe(["TIME"])[0]) <= self.at[1]:
            pass
        text, fault = script.text, self._fault
        if fault is not None and fault.is_in(script):
            text = text.replace(fault.right, fault.wrong)
        before, reply, after = self._pipe(["TIME"], ["EVAL", text, *arguments[1:]], ["TIME"])
        self.at = ms(before), ms(after)
        return reply

    def ask(self, *commands: Sequence[Any]) -> list[Any]:
        """`at` is when the first of them was answered, and the last."""
        before, *replies, after = self._pipe(["TIME"], *commands, ["TIME"])
        self.at = ms(before), ms(after)
        return replies

    def _pipe(self, *commands: Sequence[Any]) -> list[Any]:
        pipe = self.redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = pipe.execute()
        return replies


def ms(time: tuple[int, int]) -> int:
    return time[0] * 1000 + time[1] // 1000
