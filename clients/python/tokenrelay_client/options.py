"""What a client is made with; the same for the one that awaits and the one that does not."""

from __future__ import annotations

from typing import Final, TypedDict

from tokenrelay_client.environment import Proxy
from tokenrelay_client.transport import Choice

PATIENCE_S: Final = 300.0
FIRST_PATIENCE_S: Final = 8.0
"""For a server that has never answered: the address is probably wrong."""

STOP_TIMEOUT_S: Final = 10.0


class Options(TypedDict, total=False):
    """All may be left out.

    `transport`: `sse`, a connection for each stream; `websocket`, one for all; `auto`, the socket, and the other one
    where a connection breaks. `patience_s`: how long, in waits added up, a server is looked for that cannot be reached;
    `first_patience_s`: how long one that has never answered (left out: `patience_s` if that was given, else 8 s for a
    new question). `proxy`: its address; True: as the environment says; None: none. `stop_timeout_s`: how long
    leaving the block waits for stops that the server does not know yet.
    """

    transport: Choice
    patience_s: float
    first_patience_s: float | None
    proxy: Proxy
    stop_timeout_s: float
