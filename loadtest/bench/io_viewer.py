"""A viewer that speaks socket.io over WebSocket (Engine.IO 4), as much as the crowd needs. Checks nothing.

It joins a room, counts, answers pings, and reconnects with its session and offset
(https://socket.io/docs/v4/socket-io-protocol/).
"""

from __future__ import annotations

import json

from tokenrelay.loadtest.bench.viewer import Counts, Viewer
from tokenrelay.loadtest.framing import TEXT, FrameReader, client_frame

PATH = "/socket.io/?EIO=4&transport=websocket"


class IoViewer(Viewer):
    """`room` to join; or `session` and `offset`, to have what was missed."""

    def __init__(self, crowd: Counts, request: bytes, room: str, session: str = "", offset: str = "") -> None:
        super().__init__(crowd, request, reads=True)
        self.room = room
        self.session, self.offset = session, offset
        self.leaves_early = False  # as soon as it has an offset to come back with
        self.has_joined = False  # as a new one: a session that is recovered is in its room already
        self._frames = FrameReader()

    def data_received(self, data: bytes) -> None:
        was_open = self.answered.done()
        super().data_received(data)
        if self.answered.done():
            for _, payload in self._frames.feed(data if was_open else self.last):
                self._take(payload)

    def _take(self, packet: bytes) -> None:
        if packet[:1] == b"0":  # Engine.IO is open
            known = {"pid": self.session, "offset": self.offset}
            self._say("40" + (json.dumps(known) if self.session else ""))
        elif packet[:1] == b"2":
            self._say("3")
        elif packet[:2] == b"40":
            session = json.loads(packet[2:]).get("pid", "")
            if session != self.session:  # what was missed comes before this, so it may be after the end
                self.has_joined = True
                self.session = session
                self._say("42" + json.dumps(["join", self.room]))
        elif packet[:2] == b"42":
            self._crowd.events += 1
            if self.leaves_early:
                self.offset = json.loads(packet[2:])[-1]
                self.transport.abort()

    def _say(self, packet: str) -> None:
        self.transport.write(client_frame(TEXT, packet.encode()))
