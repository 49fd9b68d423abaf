"""Several parts of one response in one write: each write to a socket is a system call, and costs more than what it
writes (a head, a first event: 30 us each on loopback). Knows no stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class _Held:
    """In the place of a response's transport: keeps what is written, and is the transport in all else."""

    __slots__ = ("_pieces", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def close(self) -> None:
        self.let_out()
        self._transport.close()

    def let_out(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))


@contextlib.contextmanager
def one_write(send: Send) -> Iterator[None]:
    """What `send` writes within the block leaves at its end, also where it fails; where the server is not ours, as it
    comes. For a block that does not wait for the client."""
    cycle = cast(object, getattr(send, "__self__", None))
    if not isinstance(cycle, RequestResponseCycle):
        yield
        return
    transport = cycle.transport
    held = _Held(transport)
    cycle.transport = cast(Any, held)
    try:
        yield
    finally:
        cycle.transport = transport
        held.let_out()
