"""The line of a TOML text on which a value is, so that an error can name it. Checks nothing itself."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_HEADER: Final = re.compile(r"""^\s*(\[\[?)\s*((?:[^\[\]"'#]|"[^"]*"|'[^']*')+?)\s*\]\]?\s*(?:\#.*)?$""", re.VERBOSE)
_KEY: Final = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=(.*)$""")
_PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


class Lines:
    """The lines of one text, counted from 1. A value inside an inline table is at its key's line."""

    def __init__(self, text: str) -> None:
        self._text = text.splitlines()
        self._at: dict[Path, int] = {}
        self._read()

    def _read(self) -> None:
        counts: dict[Path, int] = {}
        table: Path = ()
        fence: str | None = None  # the quotes of a multi-line string we are in
        for number, line in enumerate(self._text, 1):
            if fence is not None:
                fence = None if fence in line else fence
                continue
            if header := _HEADER.match(line):
                table = self._resolved(tuple(part.strip("\"'") for part in _PART.findall(header[2])), counts)
                if header[1] == "[[":
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, counts[table])
                self._at.setdefault(table, number)
            elif key := _KEY.match(line):
                steps = (part.strip("\"'") for part in _PART.findall(key[1]))
                self._at.setdefault((*table, *steps), number)
                fence = next((quotes for quotes in ('"""', "'''") if key[2].count(quotes) == 1), None)

    def _resolved(self, parts: tuple[str, ...], counts: dict[Path, int]) -> Path:
        """A table's name with the numbers of the arrays it is in: `[model.traits]` belongs to the last `[[model]]`."""
        path: Path = ()
        for at, part in enumerate(parts):
            path = (*path, part)
            if path in counts and at < len(parts) - 1:
                path = (*path, counts[path])
        return path

    def of(self, path: Path, literal: str | None = None) -> int:
        """The line of a value, or of the nearest thing around it that has one; 1 where nothing has.

        `literal`: a string inside the value, where the value may span several lines.
        """
        at = next((self._at[path[:size]] for size in range(len(path), -1, -1) if path[:size] in self._at), 1)
        if literal is not None:
            for number in range(at, len(self._text) + 1):
                if f'"{literal}"' in self._text[number - 1] or f"'{literal}'" in self._text[number - 1]:
                    return number
        return at


def steps(path: str) -> Path:
    """`model[2].traits.quality` as ("model", 2, "traits", "quality")."""
    return tuple(int(number) if number else name for number, name in _STEP.findall(path))
