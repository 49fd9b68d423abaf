"""`tokenrelay init NAME`: a small project round a handler of one's own. docs/agent.md explains it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

CATALOGUE: Final = "tokenrelay.toml"
"""`tokenrelay up` in a folder with this file takes it for its catalogue, unless TOKENRELAY_CATALOGUE names another."""

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")

HANDLER: Final = '''"""The agent: an `Ask` comes in, text and parts go out."""

from collections.abc import AsyncIterator

from tokenrelay.agent import Ask, Data, Part, Thinking


async def answer(ask: Ask) -> AsyncIterator[str | Part]:
    yield Thinking("This is best calculated.")
    total = await ask.call_tool("calculator", {"expression": "6*7"})
    yield Data("calculated", {"expression": "6*7", "result": str(total)})
    yield f"You asked: {ask.messages[-1].content} "
    yield f"And 6*7 is {total}."
'''

ROW: Final = """\
# The models of this project: `tokenrelay up` finds it here, TOKENRELAY_CATALOGUE names it in production.
[[model]]
id = "NAME"
provider = "NAME"
dialect = "python"
handler = "agent:answer"
upstream = "NAME"
accepts = ["tools"]
auto = true                  # answers also where a request names no model
"""

TEST: Final = '''"""The agent without a server: `python -m pytest`."""

import asyncio
from collections.abc import Mapping
from typing import Any

from agent import answer
from tokenrelay.agent import Ask, Data, Message, ToolOutput


async def run_tool(name: str, arguments: Mapping[str, Any]) -> ToolOutput:
    return ToolOutput("42")


def test_it_calculates() -> None:
    async def parts() -> list[object]:
        ask = Ask(messages=[Message(role="user", content="Why?")], run_tool=run_tool)
        return [part async for part in answer(ask)]

    told = asyncio.run(parts())
    assert "".join(part for part in told if isinstance(part, str)) == "You asked: Why? And 6*7 is 42."
    assert Data("calculated", {"expression": "6*7", "result": "42"}) in told
'''

README: Final = """# NAME

An agent behind Tokenrelay: its answers are streamed, can be resumed anywhere and stopped from anywhere.

    pip install 'tokenrelay[embedded]' pytest
    tokenrelay up               # the chat page with this agent, on http://127.0.0.1:8000
    tokenrelay chat "Why?"      # in another terminal
    python -m pytest            # the agent's own test

- `agent.py`: the agent. While `tokenrelay up` runs, a change takes effect with the next question.
- `tokenrelay.toml`: its row in the catalogue; fallbacks, prices and what it accepts go there.
- `test_agent.py`: its test, without a server.

The guide is docs/agent.md of Tokenrelay.
"""

FILES: Final = {"agent.py": HANDLER, CATALOGUE: ROW, "test_agent.py": TEST, "README.md": README}


class CannotMake(Exception):
    """The text is for a person."""


def make(folder: Path) -> None:
    """Writes the project; its name is the folder's, and the model's id. Raises CannotMake, OSError."""
    name = folder.resolve().name
    if not NAME.match(name):
        raise CannotMake(f"{name!r} cannot be a model's name: small letters, digits, - and _, at most 64")
    if folder.exists() and any(folder.iterdir()):
        raise CannotMake(f"{folder} is there already and not empty")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in FILES.items():
        (folder / file).write_text(text.replace("NAME", name), encoding="utf-8")


def catalogue_of(folder: Path) -> Path | None:
    """The catalogue of the project that this folder is; None: it is none."""
    found = folder / CATALOGUE
    return found.absolute() if found.is_file() else None
