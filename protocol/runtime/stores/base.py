"""The interface of what keeps the logs. Callers name partitions by their tags and keys by their names; which server has
them is the store's to know. One server is a cluster of one, with one partition."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection

from tokenrelay.protocol.runtime.redis import COMMAND_TIMEOUT_S
from tokenrelay.protocol.store import partitions
from tokenrelay.protocol.store.keys import Names
from tokenrelay.protocol.store.scripts import Argument, Script

log = structlog.get_logger()


class Store(abc.ABC):
    """All methods that wait raise RedisError and OSError, as redis-py does."""

    names: Names
    tags: tuple[str, ...]
    """The partitions that streams are started in; those of a larger number before it are among them."""

    @abc.abstractmethod
    async def run(self, script: Script, arguments: Sequence[Argument], tag: str | None = None) -> Any:
        """Run a script, whose `arguments` are those for one server. `tag`: of its slot, where no key names one."""

    @abc.abstractmethod
    async def ask(self, *command: Any) -> Any:
        """One command about one key, its first argument."""

    @abc.abstractmethod
    async def ask_many(
        self, commands: Sequence[Sequence[Any]], tag: str | None = None, *, wait_s: float = COMMAND_TIMEOUT_S
    ) -> list[Any]:
        """Commands in one trip a server, each about its first argument; `tag`: all about that slot. Gives the answers
        in order, in place of some of them an exception: an error reply, or what keeps a server of a cluster from being
        asked. Raises what keeps one server from being asked. `wait_s`: how long a cluster is asked again where a server
        is away; 0 for who comes again by himself, and must not be held up by one server of many."""

    async def ask_all(
        self, commands: Sequence[Sequence[Any]], tag: str | None = None, *, wait_s: float = COMMAND_TIMEOUT_S
    ) -> list[Any]:
        """The same, where one error is the error of all: it is raised."""
        answers = await self.ask_many(commands, tag, wait_s=wait_s)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    @abc.abstractmethod
    async def publish(self, channel: str | bytes, message: bytes) -> None:
        """To those subscribed to it."""

    @abc.abstractmethod
    def servers(self) -> tuple[str, ...]:
        """Those that have partitions, by their addresses as `server_of` gives them."""

    @abc.abstractmethod
    def server_of(self, tag: str) -> str | None:
        """The server that has a partition, as far as is known; None: nobody has it."""

    @abc.abstractmethod
    def connection(self, server: str) -> AbstractConnection:
        """A connection of one's own, not yet open, that waits for replies as long as its owner does."""

    @abc.abstractmethod
    def place(self, server: str | None = None) -> str:
        """Where it is, for a log line: never a name or password."""

    @property
    @abc.abstractmethod
    def round_trips(self) -> int:
        """How often the commands' connections were used since the start."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the commands' connections."""

    async def agree(self) -> None:  # noqa: B027
        """Whether all processes have the same partitions. Raises ValueError where they have not."""

    async def insist(self) -> None:
        """The same, where the process ends with a word and code 1 if they have not."""
        try:
            await self.agree()
        except ValueError as error:
            log.error("partitions_differ", error=str(error))
            raise SystemExit(1) from None

    async def keep_map(self) -> None:
        """Owned by the process; ends only by being cancelled: learns which server has which partition."""
        await asyncio.Event().wait()

    def on_change(self, changed: Callable[[], None]) -> None:  # noqa: B027  one server does not change
        """`changed` is called whenever a partition is on another server than before."""

    def look_again(self) -> None:  # noqa: B027
        """Somebody has seen a sign that a partition is not where it is thought to be."""

    def explain(self, error: BaseException, tag: str) -> float | None:  # noqa: ARG002
        """Learn from an error about a partition; after how many seconds to ask again, None where it stays an error."""
        return None

    @property
    def knows_servers(self) -> bool:
        """False before a cluster has been reached for the first time."""
        return True

    @property
    def remarks(self) -> list[str]:
        """What the servers' settings should be and are not."""
        return []

    def server_of_key(self, name: str | bytes) -> str | None:
        text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
        return self.server_of(partitions.tag_in(text))
