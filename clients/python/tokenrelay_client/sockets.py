"""The sockets of one client: one, unless a stream is read twice or there are very many. Knows no message."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from tokenrelay_client.api import CONNECT_TIMEOUT_S, Api
from tokenrelay_client.transport import Outcome, Reader, Request, TransportName
from tokenrelay_client.websocket import Socket

DOUBT_S: Final = 300.0
"""For so long a socket that came to nothing is remembered: networks change, and a proxy may be gone."""


class Sockets:
    """A connection for all streams."""

    name: Final[TransportName] = "websocket"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._sockets: list[Socket] = []
        self._doubtful_until = -math.inf  # by the loop's clock

    @property
    def is_doubtful(self) -> bool:
        """The last one came to nothing: a proxy may forbid them, and each try costs the reader time."""
        return asyncio.get_running_loop().time() < self._doubtful_until

    async def read(self, request: Request, reader: Reader) -> Outcome:
        return await self._socket(lambda socket: socket.has_room_for(request)).read(request, reader)

    async def cancel(self, stream_id: str) -> None:
        """Raises Refused, OSError."""
        carrier = next((socket for socket in self._sockets if socket.carries(stream_id)), None)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await (carrier or self._socket(lambda socket: socket.is_usable)).cancel(stream_id)

    async def close(self) -> None:
        await asyncio.gather(*(socket.close() for socket in tuple(self._sockets)))

    def _socket(self, fits: Callable[[Socket], bool]) -> Socket:
        found = next(filter(fits, self._sockets), None)
        if found is None:
            found = Socket(self._api, self._gone)
            self._sockets.append(found)
        return found

    def _gone(self, socket: Socket) -> None:
        self._sockets.remove(socket)
        if socket.is_suspect:
            self._doubtful_until = asyncio.get_running_loop().time() + DOUBT_S
