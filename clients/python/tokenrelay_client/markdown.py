"""A model's Markdown while it is still being written: which of it is final, and how the rest is shown meanwhile.

A `Piece` is a block, or a part of one that got long: a list comes item by item, and code, a table or a paragraph is cut
where it grows beyond `MAX_PIECE`. So only the last few thousand characters are ever read again, however long it gets.
"""

from __future__ import annotations

from typing import ClassVar, Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Heading, Markdown
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

MAX_PIECE: Final = 2_000
"""Characters. What is longer ends at the next chance."""

# What a model writes must not move the cursor, rename the window or turn the text round of who reads it.
_NO_CONTROLS: Final = dict.fromkeys(
    [*(c for c in range(32) if c not in (9, 10)), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
# As rich's own, but what looks like HTML is text: rich would leave it out, and with it words of the answer.
_NO_TABLES: Final = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable("strikethrough")
_TABLES: Final = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable("strikethrough").enable("table")

MAX_COLUMNS: Final = 40
"""A table that is wider is text: a line of one bar would make so many cells."""

CODE_THEME: Final = "ansi_dark"  # the terminal's own colours


def without_controls(text: str) -> str:
    """What may be written to a terminal."""
    return text.translate(_NO_CONTROLS)


def _parse(text: str) -> list[Token]:
    is_wide = any(line.count("|") > MAX_COLUMNS for line in text.split("\n"))
    return (_NO_TABLES if is_wide else _TABLES).parse(text)


class Piece(NamedTuple):
    """Markdown that stands for itself. `continues`: no blank line stands before it."""

    text: str
    continues: bool = False


class Growing:
    """Text that grows: gives each piece of it once, as soon as no later word can change it."""

    def __init__(self) -> None:
        self._text = ""  # of what is not final, with what reopens a block that was cut
        self._opened = 0  # characters of that
        self._continues = False

    @property
    def open(self) -> Piece | None:
        """What may still change; None where there is nothing."""
        is_there = bool(self._text[self._opened :].strip())
        return Piece(self._text, self._continues) if is_there else None

    def add(self, text: str) -> list[Piece]:
        """The pieces that it makes final."""
        self._text += text
        pieces: list[Piece] = []
        # A block ends with a line, and only then is it worth looking.
        while "\n" in text or len(self._text) > MAX_PIECE:
            length, reopens = _final(self._text)
            if length <= self._opened:
                break
            pieces += self._take(length, reopens)
        return pieces

    def end(self) -> list[Piece]:
        """The rest: what comes next is no part of it."""
        pieces = self._take(len(self._text), None)
        self._continues = False
        return pieces

    def _take(self, length: int, reopens: str | None) -> list[Piece]:
        """`reopens`: what goes on belongs to the same block, which begins anew with this; None: another begins."""
        done, rest = self._text[:length], self._text[length:]
        pieces = [Piece(done, self._continues)] if done[self._opened :].strip() else []
        self._text, self._opened = (reopens or "") + rest, len(reopens or "")
        self._continues = reopens is not None
        return pieces


def _final(text: str) -> tuple[int, str | None]:
    """How much of it no later word can change, and what reopens the block that is cut there: None where none is.

    >>> _final("One.\\n\\nTwo")
    (6, None)
    >>> _final("- one\\n- two")
    (6, '')
    """
    tokens = _parse(text)
    blocks = [token for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    if len(blocks) > 1:
        return _offset(text, blocks[1].map), None
    items = [token for token in tokens if token.type == "list_item_open" and token.level == 1]
    if len(items) > 1:
        return _offset(text, items[1].map), ""
    if len(text) <= MAX_PIECE or not blocks:
        return 0, None
    return _cut(text, blocks[0])


def _cut(text: str, block: Token) -> tuple[int, str | None]:
    """Of one block that got long."""
    end = text.rfind("\n") + 1 or text.rfind(" ", 1) + 1 or len(text)
    lines = text.split("\n", 2)
    if block.type == "fence":
        is_closed = block.map is not None and text.rstrip().endswith("\n" + block.markup)
        return (0, None) if is_closed else (end, lines[0] + "\n")
    if block.type == "table_open":
        return end, "\n".join(lines[:2]) + "\n"
    return end, ""


def _offset(text: str, lines: list[int] | None) -> int:
    """Of the first of the lines."""
    return sum(len(line) + 1 for line in text.split("\n")[: lines[0]]) if lines else 0


class _Heading(Heading):
    """At the left, as everything else: in a wide window the middle is far away."""

    LEVEL_ALIGN: ClassVar = {}


class _Markdown(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading}

    def __init__(self, text: str) -> None:
        # Links are shown with their address: what is clicked must be what is read.
        super().__init__(text, code_theme=CODE_THEME, hyperlinks=False)
        self.parsed = _parse(text)


def document(text: str) -> RenderableType:
    """All of an answer, with a blank line between its blocks."""
    growing = Growing()
    shown: list[RenderableType] = []
    for piece in [*growing.add(text + "\n"), *growing.end()]:
        shown += [block_of(piece)] if piece.continues or not shown else [Text(), block_of(piece)]
    return Group(*shown)


def block_of(piece: Piece, height: int | None = None) -> RenderableType:
    """For the screen. Lines inside an item that was cut stand where they stood: they are no code."""
    indent = len(piece.text) - len(piece.text.lstrip(" ")) if piece.continues else 0
    if not indent:
        return Block(piece.text, height)
    lines = [line.removeprefix(" " * min(indent, len(line) - len(line.lstrip(" ")))) for line in piece.text.split("\n")]
    return Padding(Block("\n".join(lines), height), (0, 0, 0, indent))


class Block:
    """Markdown for the screen, without the blank lines that rich puts round tables and code. `height`: at most so many
    lines, the last ones; None: all."""

    def __init__(self, text: str, height: int | None = None) -> None:
        self._text = text
        self._height = height
        self._drawn: tuple[int, list[list[Segment]]] | None = None  # the width, and what was drawn in it

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._drawn is None or self._drawn[0] != options.max_width:
            self._drawn = (options.max_width, self._lines(console, options))
        lines = self._drawn[1]
        for line in lines if self._height is None else lines[-self._height :]:
            yield from line
            yield Segment.line()

    def _lines(self, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
        lines = console.render_lines(_Markdown(self._text), options.update(height=None), pad=False)
        shown = [number for number, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        return lines[shown[0] : shown[-1] + 1] if shown else []
