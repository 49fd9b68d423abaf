"""One reader on a socket and what it asked for; and how messages are read. Knows no socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tokenrelay_client.transport import Outcome, Reader, Request


class Attachment:
    """One reader on a socket, and what it asked for."""

    def __init__(self, ref: int, request: Request, reader: Reader) -> None:
        self.ref = ref
        self.request = request
        self.reader = reader
        self.stream_id = request.stream_id  # None until the server has said it
        self.was_open = False  # the server has answered
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.text = json.dumps(self._message)

    @property
    def _message(self) -> dict[str, Any]:
        stream_id, body, key, after = self.request
        if stream_id is None:
            return {**(body or {}), "type": "start", "ref": self.ref, "idempotency_key": key}
        return {"type": "resume", "ref": self.ref, "stream_id": stream_id, "after": after}

    def is_of(self, stream_id: str | None, key: str) -> bool:
        """The server would take the two for one: a stream is attached to a socket once."""
        return (stream_id is not None and stream_id == self.stream_id) or key == self.request.idempotency_key

    def settle(self, how: Outcome | Exception) -> None:
        if self.outcome.done():
            return
        if isinstance(how, Exception):
            self.outcome.set_exception(how)
        else:
            self.outcome.set_result(how)


def messages_of(frame: str | bytes) -> list[dict[str, Any]] | None:
    """A frame is one message or an array of them; None where it is neither."""
    try:
        value = json.loads(frame)
    except ValueError:
        return None
    messages = value if isinstance(value, list) else [value]
    return messages if all(isinstance(message, dict) for message in messages) else None


def seconds_of(ms: Any) -> float:
    """Of what a server says, a minute at most."""
    return min(max(ms, 0), 60_000) / 1000 if isinstance(ms, int | float) else 0.0


def ref_of(message: dict[str, Any]) -> int:
    """Ours are numbers from 1 on; 0 is nobody's."""
    ref = message.get("ref")
    return ref if isinstance(ref, int) else 0
