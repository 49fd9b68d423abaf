"""How far a stream has come, for whoever looks at it. Opens nothing, never waits."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from tokenrelay_client.answer import Answer
from tokenrelay_client.errors import TokenrelayError
from tokenrelay_client.events import Event
from tokenrelay_client.transport import TransportName

State: TypeAlias = Literal["connecting", "queued", "streaming", "reconnecting", "done", "failed", "detached"]
OVER: Final = frozenset({"done", "failed", "detached"})


class Progress:
    """What is known of one stream. Written by the one that reads it, read by all."""

    def __init__(self, answer: Answer, stream_id: str | None, idempotency_key: str, transport: TransportName) -> None:
        self.answer = answer
        self.stream_id = stream_id  # None until the server has said it
        self.idempotency_key = idempotency_key
        self.transport = transport  # in use, or tried next
        self.state: State = "connecting"
        self.error: TokenrelayError | None = None  # None unless `state` is `failed`
        self.attempts = 0  # connections that came to nothing, in a row
        self.retry_at: float | None = None  # by `time.monotonic`; None unless the next try is waited for


class Facts:
    """What `Stream` and `SyncStream` tell of the stream they read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream_id} {self.state} at {self.last_event_id}>"

    @property
    def text(self) -> str:
        """The model's text so far."""
        return self._progress.answer.text

    @property
    def events(self) -> list[Event]:
        """Every event so far. Grows; do not change it."""
        return self._progress.answer.events

    @property
    def state(self) -> State:
        return self._progress.state

    @property
    def is_over(self) -> bool:
        return self._progress.state in OVER

    @property
    def error(self) -> TokenrelayError | None:
        """Why it failed; None unless `state` is `failed`."""
        return self._progress.error

    @property
    def stream_id(self) -> str | None:
        """None until the server has said it."""
        return self._progress.stream_id

    @property
    def last_event_id(self) -> int:
        """Where to resume; 0 before any event."""
        return self._progress.answer.last_event_id

    @property
    def idempotency_key(self) -> str:
        return self._progress.idempotency_key

    @property
    def transport(self) -> TransportName:
        """The one in use, or tried next."""
        return self._progress.transport

    @property
    def attempts(self) -> int:
        """How many connections came to nothing, in a row; 0 while all is well."""
        return self._progress.attempts

    @property
    def retry_at(self) -> float | None:
        """When the next connection is tried, by `time.monotonic`; None where none is waited for."""
        return self._progress.retry_at
