"""What has been received of one stream, each event once whatever connections bring. Opens nothing, never waits."""

from __future__ import annotations

from typing import Any

from tokenrelay_client.events import Event


class Answer:
    """The events so far, in order, and where to resume."""

    def __init__(self, after: int) -> None:
        self.events: list[Event] = []
        self.last_event_id = after  # of the last event that came whole
        self.end: dict[str, Any] | None = None  # the event with `done`; None until it came
        self.has_started = after > 0  # a worker has begun: no longer queued
        self.is_cursor_ours = False  # the cursor is one the server gave, not one that the caller brought
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The model's text so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def take(self, event_id: int | None, data: dict[str, Any]) -> bool:
        """Whether the event was news. One that is known already changes nothing."""
        if self.end is not None:
            return False
        if not self._may_lack_id(data) if event_id is None else event_id <= self.last_event_id:
            return False
        self.events.append(Event(event_id, data))
        # An unknown event is passed over, but it has a `token`, and its id counts (section 9).
        if token := data.get("token"):
            self._pieces.append(token)
        if event_id is not None:
            self.last_event_id = event_id
            self.is_cursor_ours = self.has_started = True
        if data.get("done"):
            self.end = data
        return True

    def _may_lack_id(self, data: dict[str, Any]) -> bool:
        """Only `accepted`, which each connection that starts the stream brings, and ends that are not in the log."""
        return bool(data.get("done")) or (data.get("status") == "queued" and not self.events)
