"""How an answer is shown while it comes: as it is, as lines of JSON, or as Markdown with a line of status below.

The answer goes to standard output, everything else to standard error: what is piped on is the answer and nothing more.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from tokenrelay_client.errors import TokenrelayError
from tokenrelay_client.events import Event
from tokenrelay_client.markdown import Growing, Piece, block_of, without_controls
from tokenrelay_client.progress import State

STATES: Final[dict[State, str]] = {
    "connecting": "connecting…",
    "queued": "waiting for a worker…",
    "streaming": "writing",
    "reconnecting": "connection lost, reconnecting…",
    "done": "done",
    "failed": "failed",
    "detached": "left",
}
FRAMES_PER_S: Final = 12
MAX_TOOL_CHARACTERS: Final = 200
MAX_THOUGHT: Final = 1_000


class View(Protocol):
    """Whom the events of one answer are told."""

    def __enter__(self) -> View: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """The answer is over, or was left."""

    def tick(self) -> None:
        """A moment has passed: `FRAMES_PER_S` times a second."""

    def take(self, event: Event) -> None: ...
    def state(self, state: State, stream_id: str | None, /) -> None:
        """Told at every change, not only at those of the state. `stream_id`: None until the server has said it."""

    def waiting(self, attempts: int, retry_at: float | None, /) -> None:
        """How many connections came to nothing, and when the next is tried, by `time.monotonic`."""

    def note(self, text: str) -> None:
        """A word beside the answer."""

    def fail(self, error: TokenrelayError) -> None: ...


class Plain:
    """The text as it comes, for pipes and for terminals that cannot move their cursor."""

    def __init__(self, notes: Console) -> None:
        self._notes = notes
        self._is_screen = sys.stdout.isatty()
        self._at_line_start = True
        self._state: State = "connecting"

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end_line()

    def tick(self) -> None:
        pass

    def take(self, event: Event) -> None:
        _, data = event
        if token := data.get("token"):
            self._write(without_controls(token) if self._is_screen else token)
        elif word := tool_word(data):
            self.note(word)
        elif data.get("status") == "thinking":  # one for each run of it
            self.note("thinking…")

    def state(self, state: State, _: str | None, /) -> None:
        if state == self._state:
            return
        if state == "reconnecting":  # said once a drop, not once a try
            self.note("reconnecting…")
        self._state = state

    def waiting(self, attempts: int, retry_at: float | None, /) -> None:
        pass

    def note(self, text: str) -> None:
        self._end_line()
        self._notes.print(Text(without_controls(text), style="dim"), soft_wrap=True)

    def fail(self, error: TokenrelayError) -> None:
        self._end_line()
        self._notes.print(Text(f"tokenrelay: {without_controls(str(error))}", style="red"), soft_wrap=True)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._at_line_start = text.endswith("\n")

    def _end_line(self) -> None:
        """Notes stand on lines of their own; what is piped on gets no line end that the model did not write."""
        if self._is_screen and not self._at_line_start:
            self._write("\n")


class Json(Plain):
    """Every event as one line: `{"id": …, "stream_id": …, …}`, the fields of the wire. The last has `done` true,
    whatever happens."""

    def __init__(self, notes: Console) -> None:
        super().__init__(notes)
        self._stream_id: str | None = None  # only the first event over SSE and the last one have it themselves

    def state(self, state: State, stream_id: str | None, /) -> None:
        super().state(state, stream_id)
        self._stream_id = stream_id

    def take(self, event: Event) -> None:
        event_id, data = event
        self._write(json.dumps({"id": event_id, "stream_id": self._stream_id, **data}) + "\n")

    def fail(self, error: TokenrelayError) -> None:
        super().fail(error)
        if "done" not in error.details:  # the stream's own error has been written
            said = {"error": str(error), "error_code": error.code, "retryable": error.retryable}
            self.take(Event(None, {"token": "", "done": True, **said}))


class Pretty:
    """Markdown as it comes: blocks that are whole are printed for good, the last is drawn anew, a status line below."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._growing = Growing()
        self._drawn: tuple[Piece, int, RenderableType] | None = (
            None  # what is open, for how many lines, and how it looks
        )
        self._word = STATES["connecting"]
        self._attempts = 0
        self._retry_at: float | None = None  # None: nothing is waited for
        self._stopping = False
        self._thought: str | None = None  # what the model thinks now; None: it does not
        self._thought_at = 0.0
        self._model = ""
        self._began_at = time.monotonic()
        self._above: Literal["", "block", "note"] = ""  # what was printed last; "" before anything was
        self._spinner = Spinner("dots")
        self._live = Live(
            # Drawn when told to: rich's own thread would draw in the middle of what is being printed.
            console=screen, get_renderable=self._draw, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop",
        )  # fmt: skip

    def __enter__(self) -> Pretty:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        rest = self._growing.end()
        self._live.stop()
        self._print_all(rest)

    def tick(self) -> None:
        self._live.refresh()

    def take(self, event: Event) -> None:
        _, data = event
        self._model = str(data.get("model") or self._model)
        self._take_thought(data)
        if token := data.get("token"):
            self._print_all(self._growing.add(without_controls(token)))
        elif word := tool_word(data):
            self.note(f"⚙ {word}")
        elif word := routing_word(data):
            self.note(word)

    def _take_thought(self, data: dict[str, Any]) -> None:
        """A line while it thinks; a word of how long it was once that is over."""
        if data.get("status") == "thinking" or "thinking" in data:
            if self._thought is None:
                self._thought, self._thought_at = "", time.monotonic()
            # Only the end of it is drawn.
            self._thought = (self._thought + without_controls(str(data.get("thinking") or "")))[-MAX_THOUGHT:]
        elif self._thought is not None and (data.get("token") or "tool_call_id" in data or data.get("done")):
            self._thought = None
            self.note(f"thought for {time.monotonic() - self._thought_at:.0f} s")

    def state(self, state: State, _: str | None, /) -> None:
        self._word = STATES[state]

    def waiting(self, attempts: int, retry_at: float | None, /) -> None:
        self._attempts, self._retry_at = attempts, retry_at

    def note(self, text: str) -> None:
        if text == STOPPING:
            self._stopping = True
            return
        self._print_all(self._growing.end())
        self._print(Text(without_controls(text), style="dim"), "note")

    def fail(self, error: TokenrelayError) -> None:
        self._print_all(self._growing.end())
        self._print(Text(f"tokenrelay: {without_controls(str(error))}", style="red"), "note")

    def _print_all(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._print(block_of(piece), "block", continues=piece.continues)

    def _print(self, what: RenderableType, kind: Literal["block", "note"], *, continues: bool = False) -> None:
        """For good, with a blank line between one thing and the next."""
        if self._live.is_started:
            self._live.refresh()  # what is printed stands above it, and must not stand in it as well
        if self._above and not continues and (kind, self._above) != ("note", "note"):
            self._screen.print()
        self._screen.print(what)
        self._above = kind

    def _draw(self) -> RenderableType:
        """What is still being written, and what is going on. What may be cut off for want of room stands last."""
        model = without_controls(self._model)
        hint = "Ctrl-C again leaves" if self._stopping else "Ctrl-C stops"
        word = STOPPING if self._stopping else self._word
        facts = [word, self._next_try(), f"{time.monotonic() - self._began_at:.0f} s", hint, model]
        line = Text(" · ".join(fact for fact in facts if fact), style="dim")
        line.truncate(max(1, self._screen.width - 3), overflow="ellipsis")  # the spinner and its space before it
        self._spinner.update(text=line)
        thought = [] if self._thought is None else [self._thought_line(self._thought)]
        piece, height = self._growing.open, max(1, self._screen.height - 3 - len(thought))
        if piece is None:
            return Group(*thought, self._spinner)
        if self._drawn is None or self._drawn[:2] != (piece, height):
            self._drawn = (piece, height, block_of(piece, height))
        gap = [Text()] if self._above and not piece.continues else []
        return Group(*gap, self._drawn[2], *thought, self._spinner)

    def _thought_line(self, thought: str) -> Text:
        """Its newest words, as many as fit a line."""
        words = " ".join(thought.split())[-max(1, self._screen.width - 4) :]
        return Text(f"  {words or 'thinking…'}", style="dim italic", no_wrap=True, overflow="crop")

    def _next_try(self) -> str:
        if self._retry_at is None or self._attempts == 0:
            return ""
        return f"try {self._attempts + 1} in {max(0.0, self._retry_at - time.monotonic()):.0f} s"


STOPPING: Final = "stopping…"


def tool_word(data: dict[str, Any]) -> str | None:
    """A tool's call or result in one line; None where the event is neither."""
    if "tool_result" in data:
        verb = "failed" if data.get("tool_error") else "gave"
        return f"{data['tool_name']} {verb} {str(data['tool_result'])[:MAX_TOOL_CHARACTERS]!r}"
    if "tool_name" in data:
        return f"{data['tool_name']} {json.dumps(data['tool_input'], ensure_ascii=False)[:MAX_TOOL_CHARACTERS]}"
    return None


def routing_word(data: dict[str, Any]) -> str | None:
    """Whom NeuroSwitch chose, and why, in one line; None where the event does not say so."""
    routing = data.get("routing")
    if not isinstance(routing, dict) or "chosen" not in routing:
        return None
    why = ", ".join(map(str, routing.get("reasons") or []))
    return f"NeuroSwitch chose {routing['chosen']}{f': {why}' if why else ''}"[:MAX_TOOL_CHARACTERS]


def chooser(json_output: bool, notes: Console) -> Callable[[], View]:
    """Makes the view that fits where the output goes."""
    screen = Console(highlight=False)
    if json_output:
        return lambda: Json(notes)
    if screen.is_terminal and not screen.is_dumb_terminal:
        return lambda: Pretty(screen)
    return lambda: Plain(notes)
