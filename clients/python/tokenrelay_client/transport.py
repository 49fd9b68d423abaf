"""What a stream and its transports say to each other. Opens nothing, decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from tokenrelay_client.errors import TokenrelayError

TransportName: TypeAlias = Literal["sse", "websocket"]
Choice: TypeAlias = Literal["sse", "websocket", "auto"]
"""`auto`: the WebSocket, SSE when that breaks, and the reverse; always with the same cursor."""

CHOICES: Final[tuple[Choice, ...]] = ("auto", "websocket", "sse")


class Request(NamedTuple):
    """What to ask for: the stream if it has an id already, else its start."""

    stream_id: str | None
    body: Mapping[str, Any] | None
    idempotency_key: str
    after: int


class Ended(NamedTuple):
    """Nothing follows."""


class Dropped(NamedTuple):
    """More may follow, on another connection. `why` for people."""

    why: str
    after_s: float | None = None  # the server named the time
    was_open: bool = False  # the server had answered


class Said(NamedTuple):
    """It was refused. `by_socket`: it was the socket that was refused, so the other transport may do."""

    error: TokenrelayError
    by_socket: bool = False


Outcome: TypeAlias = Ended | Dropped | Said
"""How a connection ended."""


class Reader(Protocol):
    """Whom a connection tells what it brings."""

    def opened(self, stream_id: str | None) -> None: ...
    def take(self, event_id: int | None, data: dict[str, Any]) -> None: ...
    def advise(self, retry_s: float) -> None: ...


class Transport(Protocol):
    """One way to read. Cancelling `read` lets go of the stream; the generation goes on."""

    @property
    def name(self) -> TransportName: ...

    async def read(self, request: Request, reader: Reader) -> Outcome:
        """One connection, to its end, however it ends."""

    async def cancel(self, stream_id: str) -> None:
        """Returns once the server knows. Raises Refused, and what `api.DROPPED` names."""
