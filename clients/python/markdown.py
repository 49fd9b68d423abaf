"""A model's Markdown while it is still being written: which of it is final, and how the rest is shown meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown
from rich.segment import Segment

# What a model writes must not move the cursor, rename the window or turn the text round of who reads it.
_NO_CONTROLS: Final = dict.fromkeys(
    [*(c for c in range(32) if c not in (9, 10)), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_PARSER: Final = MarkdownIt().enable("strikethrough").enable("table")  # as rich's own

CODE_THEME: Final = "ansi_dark"  # the terminal's own colours


def without_controls(text: str) -> str:
    """What may be written to a terminal."""
    return text.translate(_NO_CONTROLS)


def as_markdown(text: str) -> Markdown:
    """For the screen. Links are shown with their address: what is clicked must be what is read."""
    return Markdown(text, code_theme=CODE_THEME, hyperlinks=False)


def final_length(text: str) -> int:
    """How much of it no later word can change: all blocks but the last, which may still grow.

    >>> final_length("One.\\n\\nTwo")
    6
    """
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) < 2:
        return 0
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: starts[-1]])


class Tail:
    """The last lines of what is not final yet: as many as fit under what stands there."""

    def __init__(self, text: str, height: int) -> None:
        self._text = text
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(as_markdown(self._text), options.update(height=None), pad=False)
        yield from _joined(lines[-self._height :])


def _joined(lines: list[list[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()
