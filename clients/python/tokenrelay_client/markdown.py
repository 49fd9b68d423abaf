"""A model's Markdown while it is still being written: which of it is final, and how the rest is shown meanwhile."""

from __future__ import annotations

from typing import ClassVar, Final

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.text import Text

# What a model writes must not move the cursor, rename the window or turn the text round of who reads it.
_NO_CONTROLS: Final = dict.fromkeys(
    [*(c for c in range(32) if c not in (9, 10)), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
# As rich's own, but what looks like HTML is text: rich would leave it out, and with it words of the answer.
_PARSER: Final = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")

CODE_THEME: Final = "ansi_dark"  # the terminal's own colours


def without_controls(text: str) -> str:
    """What may be written to a terminal."""
    return text.translate(_NO_CONTROLS)


def blocks(text: str) -> list[str]:
    """Its paragraphs, lists, tables, …, each with the blank lines that follow it.

    >>> blocks("One.\\n\\nTwo")
    ['One.\\n\\n', 'Two']
    """
    lines = text.split("\n")
    ends = [*_starts(text)[1:], len(lines)]
    found, start = [], 0
    for end in ends:
        found.append("\n".join(lines[start:end]) + ("\n" if end < len(lines) else ""))
        start = end
    return found


def final_length(text: str) -> int:
    """How much of it no later word can change: all blocks but the last, which may still grow.

    >>> final_length("One.\\n\\nTwo")
    6
    """
    starts = _starts(text)
    if len(starts) < 2:
        return 0
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: starts[-1]])


def _starts(text: str) -> list[int]:
    """The first line of each block."""
    return [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]


class _Heading(Heading):
    """At the left, as everything else: in a wide window the middle is far away."""

    LEVEL_ALIGN: ClassVar = {}


class _Markdown(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading}

    def __init__(self, text: str) -> None:
        # Links are shown with their address: what is clicked must be what is read.
        super().__init__(text, code_theme=CODE_THEME, hyperlinks=False)
        self.parsed = _PARSER.parse(text)


def document(text: str) -> RenderableType:
    """All of an answer, with a blank line between its blocks."""
    parts = [Block(block) for block in blocks(text) if block.strip()]
    spaced: list[RenderableType] = [part for block in parts for part in (Text(), block)]
    return Group(*spaced[1:])


class Block:
    """Markdown for the screen, without the blank lines that rich puts round tables and code. `height`: at most so many
    lines, the last ones; None: all."""

    def __init__(self, text: str, height: int | None = None) -> None:
        self._text = text
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(_Markdown(self._text), options.update(height=None), pad=False)
        shown = [number for number, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        if not shown:
            return
        whole = lines[shown[0] : shown[-1] + 1]
        for line in whole if self._height is None else whole[-self._height :]:
            yield from line
            yield Segment.line()
