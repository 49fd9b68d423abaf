"""The other end of a connection: is it still there, does it take what is written. Knows no stream.

A write to such a peer goes into the socket's buffer as if all were well, for as long as the kernel tries again: 15
minutes. A peer that only reads slowly still acknowledges (a window that is shut is probed), so that it is not taken for
one that is gone: `TCP_USER_TIMEOUT` would not make that difference, it ends both.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HOLD_BYTES: Final = 4 * 1024
"""What a transport may hold before `send` waits. With `MAX_CHUNK_BYTES` it is what a stalled reader costs."""

LINGER_S: Final = 10.0
"""A closed connection whose peer does not take what is left is dropped after so long."""

_UNACKED: Final = 24
_LAST_ACK_RECV: Final = 56
_INFO_BYTES: Final = 60
"""Offsets in `struct tcp_info` (linux/tcp.h): eight bytes, then words of 32 bits; times in milliseconds."""


def keep_alive(listener: socket.socket, heartbeat_s: float) -> None:
    """For connections on which nothing is written for long. Accepted sockets inherit it.

    tcp(7): the first probe after half a heartbeat's time of silence, given up after the other half.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", heartbeat_s / 2), ("TCP_KEEPINTVL", heartbeat_s / 6)):
        if hasattr(socket, name):  # macOS has other names
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(seconds)))
    if hasattr(socket, "TCP_KEEPCNT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def has_vanished(send: Send, heartbeat_s: float) -> bool:
    """True when the peer behind an ASGI `send` owes an acknowledgement and has been silent for half that time: asked
    as often, it is noticed within a heartbeat.

    False where it cannot be known: another system than Linux, a Unix socket.
    """
    transport = transport_of(send)
    if transport is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return is_silent(transport.get_extra_info("socket"), heartbeat_s / 2)
    except (OSError, AttributeError, ValueError):
        return False  # closed meanwhile (uvloop then has a descriptor of -1, a ValueError), or not TCP


def is_silent(peer: Any, timeout_s: float) -> bool:
    """The same of a socket. Raises OSError when it is not an open TCP socket."""
    info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        return False
    unacked: int = struct.unpack_from("=I", info, _UNACKED)[0]
    silent_ms: int = struct.unpack_from("=I", info, _LAST_ACK_RECV)[0]
    return unacked > 0 and silent_ms > timeout_s * 1000


def hold_little(send: Send) -> None:
    """Let `send` wait as soon as the kernel takes no more: what a reader lacks is in the log, not in a buffer."""
    transport = transport_of(send)
    if transport is not None and not transport.is_closing():  # uvloop raises for one whose client has gone
        transport.set_write_buffer_limits(high=HOLD_BYTES)


def is_full(send: Send) -> bool:
    """True while what is written would wait. Asked before something is made for the peer, since what has been made is
    held as long as it waits."""
    behind = getattr(send, "__self__", None)
    if isinstance(behind, RequestResponseCycle):
        return behind.flow.write_paused and not behind.disconnected
    return isinstance(behind, WebSocketsSansIOProtocol) and not behind.writable.is_set()


async def until_writable(send: Send) -> None:
    """Wait while the peer accepts nothing; returns as well when it has gone."""
    behind = getattr(send, "__self__", None)
    if isinstance(behind, RequestResponseCycle):
        await behind.flow.drain()
    elif isinstance(behind, WebSocketsSansIOProtocol):
        await behind.writable.wait()


def abort(send: Send) -> None:
    """Drop the connection behind an ASGI `send` without waiting for a peer that takes nothing."""
    transport = transport_of(send)
    if transport is not None:
        transport.abort()


def transport_of(send: Send) -> asyncio.WriteTransport | None:
    """ASGI has no word for it; uvicorn's `send` is a method of the object that holds the transport."""
    transport: asyncio.WriteTransport | None = getattr(getattr(send, "__self__", None), "transport", None)
    return transport


def drop_later(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
    """A gentle close waits until the peer has taken everything, for as long as that takes."""
    if transport.get_write_buffer_size():
        loop.call_later(LINGER_S, transport.abort)
