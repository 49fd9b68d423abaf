"""docs/openai-sdk.md: each program of the page, run as it stands with the official SDK."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import Fleet
from tests.wire import words

PAGE = Path(__file__).resolve().parents[2] / "docs" / "openai-sdk.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=1, workers=1) as fleet:
        yield fleet


def run(fleet: Fleet, program: str) -> str:
    env = os.environ | {"OPENAI_BASE_URL": f"{fleet.urls[0]}/v1", "OPENAI_API_KEY": "x"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_both_dialects() -> None:
    assert len(PROGRAMS) == 2


def test_a_chat_is_streamed(fleet: Fleet) -> None:
    assert run(fleet, PROGRAMS[0]) == words(5)


def test_a_response_goes_on_after_a_drop(fleet: Fleet) -> None:
    rest = run(fleet, PROGRAMS[1])
    assert rest
    assert words(40).endswith(rest)
