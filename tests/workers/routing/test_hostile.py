"""The patterns of the bundled catalogue take time in proportion to the text, whatever it is."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tokenrelay.protocol.models import catalogue

OURS = catalogue.parse(Path(catalogue.__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
PATTERNS = [pattern for sign in OURS.routing.sign for pattern in sign.patterns]
SIZE = 8_000
"""Twenty times what the router shows them: what is quadratic takes a second here."""

UNITS = (
    "1",
    "1 ",
    "a",
    "a ",
    "A",
    "A_",
    " ",
    "\n",
    "1+",
    "(1",
    "a.",
    "1,",
    "1.",
    "\\",
    "{",
    "$",
    "-",
    "def ",
    "x = ",
    '"',
)
MAX_S = 0.25
"""Of this process's own time: 2 to 30 ms where it is linear."""


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_text_makes_it_slow(pattern: str) -> None:
    compiled = re.compile(pattern)
    for unit in UNITS:
        text = unit * (SIZE // len(unit))
        began_at = time.process_time()
        compiled.search(text)
        assert time.process_time() - began_at < MAX_S, repr(unit)
