"""A page of docs as what it is made of: blocks of code by heading and language. Knows no way to run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from tests.fleet import ROOT

PAGE: Final = ROOT / "docs" / "recipes.md"
FIRST_APP: Final = ROOT / "docs" / "first-app.md"
NOT_RUN: Final = "console"
"""The language of what changes the reader's machine."""


class Block(NamedTuple):
    heading: str
    language: str
    code: str


def blocks(page: Path = PAGE) -> list[Block]:
    """All that have a language, in order."""
    heading, found = "", []
    pattern = r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<code>.*?)^```$"
    for match in re.finditer(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["language"], match["code"]))
    return found


def recipe(heading: str, language: str, number: int = 0) -> str:
    """The code of one block, as it stands. Raises IndexError."""
    return [block.code for block in blocks() if block[:2] == (heading, language)][number]
