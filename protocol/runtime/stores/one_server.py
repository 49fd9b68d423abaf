"""One server, alone or behind Sentinel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from tokenrelay.protocol.runtime import redis as runtime
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys, partitions
from tokenrelay.protocol.store.scripts import Argument, Script


class OneServer(Store):
    """Over a client with a bounded pool, which it closes."""

    names = keys.ONE_SERVER
    tags = (partitions.ONE_SERVER,)

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def __repr__(self) -> str:
        return f"<OneServer {self.place()}>"

    async def run(self, script: Script, arguments: Sequence[Argument], tag: str | None = None) -> Any:  # noqa: ARG002
        return await runtime.run(self.redis, script, arguments)

    async def ask(self, *command: Any) -> Any:
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def ask_many(
        self,
        commands: Sequence[Sequence[Any]],
        tag: str | None = None,  # noqa: ARG002
        *,
        wait_s: float = runtime.COMMAND_TIMEOUT_S,  # noqa: ARG002
    ) -> list[Any]:
        pipe = self.redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        values: list[Any] = await pipe.execute(raise_on_error=False)
        return values

    async def publish(self, channel: str | bytes, message: bytes) -> None:
        await self.redis.publish(channel, message)

    def servers(self) -> tuple[str, ...]:
        return ("",)

    def server_of(self, tag: str) -> str:  # noqa: ARG002
        return ""

    def connection(self, server: str = "") -> AbstractConnection:  # noqa: ARG002
        return runtime.own_connection(self.redis, socket_timeout=None)

    def place(self, server: str | None = None) -> str:  # noqa: ARG002
        return runtime.pool_place(self.redis)

    @property
    def round_trips(self) -> int:
        return runtime.round_trips(self.redis)

    async def aclose(self) -> None:
        await self.redis.aclose(close_connection_pool=True)
