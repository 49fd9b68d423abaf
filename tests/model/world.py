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
    """One server. With a `fault` planted, or none."""

    names = keys.ONE_SERVER
    all_parts = "tr:{*}:part:*"

    def __init__(self, redis: Any, fault: Fault | None = None) -> None:
        self.redis = redis
        self._fault = fault
        self._ear: Any = None  # None outside a run
        self._heard: list[tuple[str, bytes]] = []  # and nobody has asked for it yet
        self.at: Window = (0, 0)

    def __repr__(self) -> str:
        return f"<World of {self.names}>"

    def name(self, name: str) -> str:
        """Of what is one for a queue and all that is in it."""
        return name

    def arq_job(self, stream_id: str) -> str:
        return keys.ARQ_JOB + stream_id

    def stream_id(self, number: int) -> str:
        return f"stream-{number:03d}"

    def begin(self) -> None:
        self._empty()
        self._heard.clear()
        self._ear = self.redis.pubsub(ignore_subscribe_messages=True)
        self.listen(self.name(keys.WAKE))
        self.listen(self.name(keys.CANCEL))

    def end(self) -> None:
        self._ear.close()

    def listen(self, channel: str) -> None:
        """Returns when it is known there."""
        self._subscribe(channel)
        self._catch_up()

    def heard(self) -> list[tuple[str, bytes]]:
        """What was published since the last time."""
        self._catch_up()
        found, self._heard = self._heard, []
        return found

    def _empty(self) -> None:
        self.redis.flushall()

    def _subscribe(self, channel: str) -> None:
        self._ear.subscribe(channel)

    def _catch_up(self) -> None:
        """A PING on the same connection is answered after everything before it."""
        self._ear.ping("so far")
        while (message := self._ear.get_message(timeout=10)) is None or message["type"] != "pong":
            if message is not None:
                self._heard.append((message["channel"].decode(), message["data"]))

    def run(self, script: Script, arguments: Sequence[Argument], tag: str | None = None) -> Any:
        """`at` is when, by the server's clock. No two in the same millisecond, so that they have an order."""
        return self._run(self.redis, script.text, script, arguments)

    def ask(self, *commands: Sequence[Any]) -> list[Any]:
        """`at` is when the first of them was answered, and the last."""
        return self._ask(self.redis, commands)

    def _run(self, redis: Any, text: str, script: Script, arguments: Sequence[Argument]) -> Any:
        while ms(pipe(redis, ["TIME"])[0]) <= self.at[1]:
            pass
        if self._fault is not None and self._fault.is_in(script):
            text = text.replace(self._fault.right_in(text), self._fault.wrong_in(text))
        [reply] = self._ask(redis, [["EVAL", text, *arguments[1:]]])
        return reply

    def _ask(self, redis: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        before, *replies, after = pipe(redis, ["TIME"], *commands, ["TIME"])
        self.at = ms(before), ms(after)
        return replies


def pipe(redis: Any, *commands: Sequence[Any]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    replies: list[Any] = pipeline.execute()
    return replies


def ms(time: tuple[int, int]) -> int:
    return time[0] * 1000 + time[1] // 1000
