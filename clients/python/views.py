"""How an answer is shown while it comes: as it is, as lines of JSON, or as Markdown with a line of status below.

The answer goes to standard output, everything else to standard error: what is piped on is the answer and nothing more.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from clients.python.answer import Event
from clients.python.errors import TokenrelayError
from clients.python.markdown import Tail, as_markdown, final_length, without_controls
from clients.python.stream import State

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


class View(Protocol):
    """Whom the events of one answer are told."""

    def __enter__(self) -> View: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """The answer is over, or was left."""

    def take(self, event: Event) -> None: ...
    def state(self, state: State) -> None:
        """Told at every change, not only at those of the state."""

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

    def take(self, event: Event) -> None:
        _, data = event
        if token := data.get("token"):
            self._write(without_controls(token) if self._is_screen else token)
        elif word := tool_word(data):
            self.note(word)

    def state(self, state: State) -> None:
        if state == self._state:
            return
        if state == "reconnecting":  # said once a drop, not once a try
            self.note("reconnecting…")
        self._state = state

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
    """Every event as one line: `{"id": …, …}`, the fields of the wire. The last has `done` true, whatever happens."""

    def take(self, event: Event) -> None:
        event_id, data = event
        self._write(json.dumps({"id": event_id, **data}) + "\n")

    def fail(self, error: TokenrelayError) -> None:
        super().fail(error)
        if "done" not in error.details:  # the stream's own error has been written
            said = {"error": str(error), "error_code": error.code, "retryable": error.retryable}
            self._write(json.dumps({"id": None, "token": "", "done": True, **said}) + "\n")


class Pretty:
    """Markdown as it comes: blocks that are whole are printed for good, the last is drawn anew, a status line below."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._text = ""  # of the blocks that are not final
        self._word = STATES["connecting"]
        self._stopping = False
        self._model = ""
        self._events = 0
        self._began_at = time.monotonic()
        self._spinner = Spinner("dots")
        self._live = Live(
            console=screen, get_renderable=self._draw, refresh_per_second=FRAMES_PER_S, transient=True,
            redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop",
        )  # fmt: skip

    def __enter__(self) -> Pretty:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        rest, self._text = self._text, ""
        self._live.stop()
        if rest.strip():
            self._screen.print(as_markdown(rest))

    def take(self, event: Event) -> None:
        _, data = event
        self._model = str(data.get("model") or self._model)
        if token := data.get("token"):
            self._events += 1
            self._text += without_controls(token)
            # A block ends with a line, and only then is it worth looking.
            if "\n" in token and (length := final_length(self._text)):
                self._settle(length)
        elif word := tool_word(data):
            self._settle(len(self._text))
            self.note(f"⚙ {word}")

    def state(self, state: State) -> None:
        self._word = STATES[state]

    def note(self, text: str) -> None:
        if text == STOPPING:
            self._stopping = True
            return
        self._screen.print(Text(without_controls(text), style="dim"))

    def fail(self, error: TokenrelayError) -> None:
        self._settle(len(self._text))
        self._screen.print(Text(f"tokenrelay: {without_controls(str(error))}", style="red"))

    def _settle(self, length: int) -> None:
        block, self._text = self._text[:length], self._text[length:]
        if block.strip():
            self._screen.print(as_markdown(block))
            self._screen.print()

    def _draw(self) -> RenderableType:
        model = without_controls(self._model)[:40]
        facts = [STOPPING if self._stopping else self._word, model, f"{time.monotonic() - self._began_at:.0f} s"]
        hint = "Ctrl-C again leaves" if self._stopping else "Ctrl-C stops"
        line = Text(" · ".join(fact for fact in [*facts, hint] if fact), style="dim")
        line.truncate(max(1, self._screen.width - 3), overflow="ellipsis")  # the spinner and its space before it
        self._spinner.update(text=line)
        return Group(Tail(self._text, max(1, self._screen.height - 2)), self._spinner)


STOPPING: Final = "stopping…"


def tool_word(data: dict[str, Any]) -> str | None:
    """A tool's call or result in one line; None where the event is neither."""
    if "tool_result" in data:
        verb = "failed" if data.get("tool_error") else "gave"
        return f"{data['tool_name']} {verb} {str(data['tool_result'])[:MAX_TOOL_CHARACTERS]!r}"
    if "tool_name" in data:
        return f"{data['tool_name']} {json.dumps(data['tool_input'], ensure_ascii=False)[:MAX_TOOL_CHARACTERS]}"
    return None


def chooser(json_output: bool, notes: Console) -> Callable[[], View]:
    """Makes the view that fits where the output goes."""
    screen = Console(highlight=False)
    if json_output:
        return lambda: Json(notes)
    if screen.is_terminal and not screen.is_dumb_terminal:
        return lambda: Pretty(screen)
    return lambda: Plain(notes)
