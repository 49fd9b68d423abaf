"""The transcripts: what each provider's server says, byte for byte, what is to be understood, and how a wire cuts it.

`transcripts/{dialect}/{name}.sse` is a body, written from the provider's event reference; the `.json` beside it is the
answer: text, calls, usage and finish reason, or the error; `cut` means that the connection breaks where the file ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenrelay.workers.conversation import Delta, Finish, Piece, ToolUse
from tokenrelay.workers.providers.base import ProviderError

ROOT: Final = Path(__file__).with_name("transcripts")
DIALECTS: Final = ("chat_completions", "responses", "anthropic", "gemini")


class Call(msgspec.Struct, frozen=True):
    name: str
    arguments: dict[str, Any]


class Error(msgspec.Struct, frozen=True):
    code: str
    retryable: bool


class Answer(msgspec.Struct, frozen=True):
    """What a reader understood. After an error only the text counts."""

    text: str
    calls: tuple[Call, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = ""
    model: str | None = None
    error: Error | None = None
    cut: bool = False


class Case(msgspec.Struct, frozen=True):
    dialect: str
    name: str
    body: bytes
    answer: Answer

    def __str__(self) -> str:
        return f"{self.dialect}-{self.name}"


def load(dialect: str) -> list[Case]:
    paths = sorted((ROOT / dialect).glob("*.sse"))
    return [Case(dialect, path.stem, path.read_bytes(), _answer(path.with_suffix(".json"))) for path in paths]


def _answer(path: Path) -> Answer:
    return msgspec.json.decode(path.read_bytes(), type=Answer)


CASES: Final = [case for dialect in DIALECTS for case in load(dialect)]


def understood(case: Case, pieces: list[Piece], error: ProviderError | None) -> Answer:
    """Our own reading, in the same words."""
    text = "".join(piece.text for piece in pieces if isinstance(piece, Delta))
    if error is not None:
        assert "secret" not in error.message
        return Answer(text, error=Error(error.code, error.retryable), cut=case.answer.cut)
    finish = pieces[-1]
    assert isinstance(finish, Finish)
    calls = tuple(Call(piece.name, piece.arguments) for piece in pieces if isinstance(piece, ToolUse))
    return Answer(text, calls, finish.input_tokens, finish.output_tokens, finish.reason, finish.resolved_model)


# -- how a wire may cut it, and what may stand between events ----------------------------------------------------------


def _between_all(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def _inside_characters(body: bytes) -> list[bytes]:
    """Before every byte that continues a character, and between the two halves of every blank line."""
    return re.split(rb"(?=[\x80-\xbf])|(?<=\n)(?=\n)", body)


def _crlf(body: bytes) -> list[bytes]:
    """Cut between CR and LF."""
    return re.split(rb"(?=\n)", body.replace(b"\n", b"\r\n"))


def _keep_alives(body: bytes) -> list[bytes]:
    """A comment between any two events. What is not a frame has to stay in one piece."""
    head, bare, tail = body.partition(b"\n\n{")
    return [b": keep-alive\n\n", *re.split(rb"(?<=\n\n)", head.replace(b"\n\n", b"\n\n: keep-alive\n\n")), bare, tail]


WIRES: Final[Mapping[str, Callable[[bytes], list[bytes]]]] = {
    "in one piece": lambda body: [body],
    "byte by byte": _between_all,
    "cut inside characters": _inside_characters,
    "CRLF, cut in two": _crlf,
    "comments between events": _keep_alives,
}

NO_COMMENTS: Final = {"gemini"}
"""Whose own SDK takes a comment for an answer: that provider sends none."""
