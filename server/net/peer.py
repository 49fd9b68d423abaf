"""Readers whose machine or network is gone without a word: what the kernel knows of them. Knows no stream.

A write to such a peer goes into the socket's buffer as if all were well, for as long as the kernel tries again: 15
minutes. A peer that only reads slowly still acknowledges (a window that is shut is probed), so that it is not taken for
one that is gone: `TCP_USER_TIMEOUT` would not make that difference, it ends both.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from starlette.types import Send

from tokenrelay.server.http import transport_of

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
    except (OSError, AttributeError):
        return False  # closed meanwhile, or not TCP


def is_silent(peer: Any, patience_s: float) -> bool:
    """The same of a socket. Raises OSError when it is not an open TCP socket."""
    info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        return False
    unacked: int = struct.unpack_from("=I", info, _UNACKED)[0]
    silent_ms: int = struct.unpack_from("=I", info, _LAST_ACK_RECV)[0]
    return unacked > 0 and silent_ms > patience_s * 1000
