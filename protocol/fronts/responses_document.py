"""The object of a response as JSON, written while its log is read: of the text no more is held than one page. Knows no
socket."""

from __future__ import annotations

from typing import Any, Final

from tokenrelay.protocol.fronts.responses_fold import Fold
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.protocol.wire import event_json

BEFORE_TEXT: Final = {
    "message": '"content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"',
    "reasoning": '"summary":[{"type":"summary_text","text":"',
}


class Document:
    """`begin`, then `take` page by page, then `end`: together one JSON object. `fold` is at the log's start."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._written = 0  # items that are written whole
        self._is_open = False  # the next one's text is under way

    def begin(self) -> str:
        self._fold.begin()
        return '{"output":['

    def take(self, entries: list[tuple[int, Entry]]) -> str:
        """Raises CorruptEntry."""
        for entry_id, entry in entries:
            self._fold.take(entry, entry_id)
        return self._flush()

    def end(self, status: str | None = None) -> str:
        """`status`: in place of one that says that it runs."""
        told = self._flush()
        rest = {name: value for name, value in self._fold.object.items() if name != "output"}
        if status is not None and rest["status"] in ("queued", "in_progress"):
            rest["status"] = status
        for item in self._fold.left(self._written + self._is_open):  # what waits for the result of a call
            told += self._comma() + event_json.to_json(item)
            self._written += 1
        if self._is_open:
            told += '"}],"status":"in_progress"}'
        return f"{told}],{event_json.to_json(rest)[1:]}"

    def _flush(self) -> str:
        """What is known for good of the items in their order."""
        told: list[str] = []
        while (item := self._fold.settled(self._written)) is not None:
            told.append(self._tail(item) if self._is_open else self._comma() + event_json.to_json(item))
            self._is_open = False
            self._written += 1
        if (item := self._fold.under_way(self._written)) is not None:
            if not self._is_open:
                told.append(self._head(item))
                self._is_open = True
            told.append(event_json.to_json(self._fold.cut())[1:-1])
        return "".join(told)

    def _comma(self) -> str:
        return "," if self._written else ""

    def _head(self, item: dict[str, Any]) -> str:
        first = {name: value for name, value in item.items() if name not in ("status", "content", "summary")}
        return f"{self._comma()}{event_json.to_json(first)[:-1]},{BEFORE_TEXT[item['type']]}"

    def _tail(self, item: dict[str, Any]) -> str:
        [part] = item["content"] if item["type"] == "message" else item["summary"]
        return f'{event_json.to_json(part["text"])[1:-1]}"}}],"status":"{item["status"]}"}}'
