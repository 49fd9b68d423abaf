"""Checks that a reader has every token once and in order. Knows the scripted model's text, no socket and no clock.

The text is `w0 w1 w2 …`, so each word says where it belongs: a jump ahead is a loss, a step back a repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenrelay.protocol.models import scripted


class Verifier:
    """One stream as one client keeps it, over any number of connections. `model` unknown: ids only, text is kept."""

    def __init__(self, model: str) -> None:
        self.tokens = scripted.parse(model).tokens if scripted.is_scripted(model) else None  # None: not foretold
        self.next_word = 0
        self.last_id = 0  # the cursor
        self.lost = 0
        self.repeated = 0
        self.faults: list[str] = []
        self.has_ended = False
        self.timing: Mapping[str, float] = {}  # of the completion: where the time to the first token went, ms
        self._pieces: list[str] = []  # kept only where the text is not foretold

    def __repr__(self) -> str:
        return f"<Verifier at {self.last_id} | lost {self.lost} | repeated {self.repeated} | {len(self.faults)} faults>"

    @property
    def is_whole(self) -> bool:
        return self.has_ended and not (self.lost or self.repeated or self.faults)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, event_id: int | None, data: Mapping[str, Any]) -> int:
        """One event as it came; how many tokens it brought."""
        if self.has_ended:
            self.faults.append("an event after the end")
        if event_id is not None:
            if event_id <= self.last_id:
                self.faults.append("an id that is not above the one before")
            self.last_id = max(self.last_id, event_id)
        token = data.get("token")
        if not isinstance(token, str):
            self.faults.append("an event without a token field")
            return 0
        brought = self._take_text(token) if token else 0
        if data.get("done"):
            self._end(event_id, data)
        return brought

    def give_up(self, why: str) -> None:
        """The client stops before the end: what has not come is lost."""
        self.faults.append(why)
        if self.tokens is not None:
            self.lost += max(0, self.tokens - self.next_word)

    def compare(self, written: str) -> None:
        """Where the text is not foretold: against what the server stored."""
        if self.text != written:
            self.faults.append(f"the text differs from the stored one: {len(self.text)} and {len(written)} characters")

    def _take_text(self, token: str) -> int:
        if self.tokens is None:
            self._pieces.append(token)
            return 1
        if token == f"w{self.next_word} ":  # live tokens, nearly always
            self.next_word += 1
            return 1
        words = token.split(" ")
        if words.pop() or not words:
            self.faults.append("text that the model did not write")
            return 0
        for word in words:
            self._take_word(word)
        return len(words)

    def _take_word(self, word: str) -> None:
        number = word[1:]
        if word[:1] != "w" or not (number.isascii() and number.isdigit()) or str(int(number)) != number:
            self.faults.append("text that the model did not write")
        elif int(number) < self.next_word:
            self.repeated += 1
        else:
            self.lost += int(number) - self.next_word
            self.next_word = int(number) + 1

    def _end(self, event_id: int | None, data: Mapping[str, Any]) -> None:
        self.has_ended = True
        self.timing = data.get("timing") or {}
        if "error_code" in data:
            self.faults.append(f"ended in {data['error_code']}")
        elif event_id is None:
            self.faults.append("an end without an id")
        if self.tokens is not None:
            self.lost += max(0, self.tokens - self.next_word)
            if self.next_word > self.tokens:
                self.faults.append("more text than the model writes")
