"""A body in chunks written straight to its transport, past ASGI: the bytes that `send` would write. Knows no stream.

`send` is a coroutine, so that somebody has to be woken for it. Where its transport has nothing left to write it would
not wait either, and then a plain call does the same.
"""

from __future__ import annotations

from typing import cast

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Direct:
    """One response that has begun, in chunks (RFC 9112 section 7.1)."""

    __slots__ = ("_cycle", "_size", "_write")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._write = cycle.transport.write
        self._size = cycle.transport.get_write_buffer_size

    @classmethod
    def of(cls, send: Send) -> Direct | None:
        """None where the answer has another form: HTTP/1.0, HEAD, or a server that is not ours."""
        cycle = cast(object, getattr(send, "__self__", None))
        if not isinstance(cycle, RequestResponseCycle):
            return None
        is_chunked = cycle.response_started and bool(cycle.chunked_encoding) and cycle.scope["method"] != "HEAD"
        return cls(cycle) if is_chunked else None

    @property
    def is_free(self) -> bool:
        """The body is not over, its client is there, and everything before has been taken by the kernel."""
        cycle = self._cycle
        if cycle.disconnected or cycle.response_complete or cycle.transport.is_closing():
            return False
        return not self._size()

    def write(self, body: bytes) -> None:
        """Some of the body. Only while `is_free`. An empty chunk would end the body, so nothing is written for one: an
        entry may say nothing in a reader's dialect."""
        if body:
            self._write(b"%x\r\n%b\r\n" % (len(body), body))
