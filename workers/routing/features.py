"""What a request asks for: its kind, length, language, and whether tools are wanted. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec

from tokenrelay.protocol.models.catalogue import Catalogue
from tokenrelay.protocol.models.routing_rules import KINDS, STRATEGIES, Kind, RoutingRules, Strategy
from tokenrelay.protocol.wire.request import ChatRequest

Length: TypeAlias = Literal["short", "medium", "long"]

HEAD: Final = 1_600
TAIL: Final = 400
"""A question stands at one of the ends: what is between them is its material, and costs time to read."""

PATTERN_HEAD: Final = 320
PATTERN_TAIL: Final = 120
"""Regular expressions cost ten times what words cost (measured: 2 ms for all of ours in 2,000 characters)."""

TURNS: Final = 3
"""`And shorter, please` says nothing: then the turn before it speaks, at most this many back."""

_WORD: Final = re.compile(r"\w+")
_HINT: Final = re.compile(r"\s*(?:/(?P<slash>[a-z]+)\b|(?P<colon>[a-z]+):(?=\s|$))", re.IGNORECASE)

# Written without spaces between words, or with endings glued on: looked for anywhere in the text.
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

_SCRIPTS: Final = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),  # before Chinese: Japanese has Chinese characters too
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u3400-\u9fff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
_COMMON: Final = {
    "en": "the and is are of to in that what how for with you my this it a do can i was on be me write",
    "de": "der die das und ist nicht ein eine mit für auf wie was ich du den von zu im wird mir bitte einen sich",
    "fr": "le la les et est un une des pour dans que qui je vous sur avec ce en du comment moi pas au quel quelle",
    "es": "el la los las y es un una de que en para con por como mi cómo qué del se lo me cuál este",
    "it": "il lo la gli le e è un una di che per con come mi della sono nel del cosa ho questo",
    "pt": "o a os as e é um uma de que em para com por como não meu do da no na me você qual",
    "nl": "de het een en is van ik niet dat op te voor met zijn wat hoe mijn je aan",
    "pl": "i w na nie się jest to że do jak co z dla czy mi napisz",
    "tr": "ve bir bu için ne nasıl mi ile çok bana olan da de",
}
_COMMON_WORDS: Final = {language: frozenset(words.split()) for language, words in _COMMON.items()}


class Features(msgspec.Struct, frozen=True):
    """`tokens` is an estimate of the whole conversation. `hint`: the word at the beginning that said the kind or the
    strategy. `points`: what the signs found counted for the kind."""

    kind: Kind
    points: float
    language: str
    tokens: int
    length: Length
    needs_tools: bool
    hint: str | None = None
    strategy: Strategy | None = None


class Signs:
    """The signs of a catalogue, ready to be looked for: each has a number and a (kind, weight)."""

    def __init__(self, rules: RoutingRules) -> None:
        self._worth: list[tuple[Kind, float]] = []
        self._words: dict[str, list[int]] = {}
        self._stems: dict[str, list[int]] = {}
        self._phrases: dict[str, list[tuple[tuple[str, ...], bool, int]]] = {}  # by their first word
        self._anywhere: list[tuple[str, int]] = []
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for sign in rules.sign:
            for word in sign.words:
                self._add(word.lower(), self._number(sign.kind, sign.weight))
            for pattern in sign.patterns:
                self._patterns.append((re.compile(pattern), self._number(sign.kind, sign.weight)))
        self._sizes = sorted({len(stem) for stem in self._stems})

    def _number(self, kind: Kind, weight: float) -> int:
        self._worth.append((kind, weight))
        return len(self._worth) - 1

    def _add(self, word: str, number: int) -> None:
        is_stem = word.endswith("*")
        parts = _WORD.findall(word)
        if _UNSPACED.search(word):
            self._anywhere.append((word.rstrip("*"), number))
        elif len(parts) > 1:
            self._phrases.setdefault(parts[0], []).append((tuple(parts[1:]), is_stem, number))
        elif parts:
            (self._stems if is_stem else self._words).setdefault(parts[0], []).append(number)

    def weigh(self, text: str) -> dict[Kind, float]:
        """What the signs in a text count for each kind that has any."""
        points: dict[Kind, float] = {}
        for number in set(self._found(text)):
            kind, weight = self._worth[number]
            points[kind] = points.get(kind, 0.0) + weight
        return points

    def _found(self, text: str) -> Iterator[int]:
        lower = text.lower()
        words = _WORD.findall(lower)
        for word in set(words):
            yield from self._words.get(word, ())
            for size in self._sizes:
                if size > len(word):
                    break
                yield from self._stems.get(word[:size], ())
        for at, word in enumerate(words):
            for rest, is_stem, number in self._phrases.get(word, ()):
                if _follows(words, at + 1, rest, is_stem):
                    yield number
        if not text.isascii():
            for word, number in self._anywhere:
                if word in lower:
                    yield number
        looked_at = _ends(text, PATTERN_HEAD, PATTERN_TAIL)
        for pattern, number in self._patterns:
            if pattern.search(looked_at):
                yield number


def _follows(words: Sequence[str], at: int, rest: tuple[str, ...], is_stem: bool) -> bool:
    last = at + len(rest) - 1
    if last >= len(words) or tuple(words[at:last]) != rest[:-1]:
        return False
    return words[last].startswith(rest[-1]) if is_stem else words[last] == rest[-1]


@lru_cache(maxsize=16)
def signs_of(catalogue: Catalogue) -> Signs:
    """Made once for a catalogue, which lives as long as its process."""
    return Signs(catalogue.routing)


def read(request: ChatRequest, catalogue: Catalogue) -> Features:
    """What is asked."""
    rules = catalogue.routing
    conversation = request.conversation
    asked = [turn.text for turn in conversation if turn.role == "user"] or [""]
    tokens = tokens_of(request)
    hint, meaning = _hint(asked[-1], rules)
    kind, points = _kind(asked, signs_of(catalogue), rules.least)
    return Features(
        kind=next((each for each in KINDS if each == meaning), kind),
        points=points,
        language=language_of(asked[-1]),
        tokens=tokens,
        length=_length(tokens, rules),
        needs_tools=needs_tools(request),
        hint=hint,
        strategy=next((each for each in STRATEGIES if each == meaning), None),
    )


def tokens_of(request: ChatRequest) -> int:
    """An estimate of the whole conversation."""
    return sum(estimate_tokens(turn.text) for turn in request.conversation)


def needs_tools(request: ChatRequest) -> bool:
    return request.enable_tools is not False and bool(request.enable_tools or request.tools)


def _hint(text: str, rules: RoutingRules) -> tuple[str, Kind | Strategy] | tuple[None, None]:
    """`code: …` or `/code …`; a strategy has a slash only, because `best: …` may be a list."""
    match = _HINT.match(text)
    if match is None:
        return None, None
    word = (match["slash"] or match["colon"]).lower()
    meaning = rules.hints.get(word)
    if meaning is None or (match["colon"] and meaning not in KINDS):
        return None, None
    return word, meaning


def _kind(asked: Sequence[str], signs: Signs, least: float) -> tuple[Kind, float]:
    for text in list(reversed(asked))[:TURNS]:
        points = signs.weigh(_ends(text))
        best = max(KINDS, key=lambda kind: points.get(kind, 0.0))  # of equals the first
        if points.get(best, 0.0) >= least:
            return best, points[best]
    return "chat", 0.0


def _ends(text: str, head: int = HEAD, tail: int = TAIL) -> str:
    return text if len(text) <= head + tail else f"{text[:head]}\n{text[-tail:]}"


def _length(tokens: int, rules: RoutingRules) -> Length:
    if tokens <= rules.length.short_tokens:
        return "short"
    return "long" if tokens >= rules.length.long_tokens else "medium"


def estimate_tokens(text: str) -> int:
    """Rather too many than too few: four bytes of Latin text a token, a token for each character without spaces."""
    if text.isascii():
        return len(text) // 4 + 1
    return len(text.encode("utf-8", "replace")) // 3 + 1


def language_of(text: str) -> str:
    """A guess, as an ISO 639-1 code; English where nothing speaks for another."""
    head = text[:400]
    if not head.isascii():
        for language, script in _SCRIPTS:
            if len(script.findall(head)) * 4 >= len(head):
                return language
    words = set(_words_of(head))
    counts = {language: len(words & common) for language, common in _COMMON_WORDS.items()}
    best = max(counts, key=lambda language: counts[language])  # of equals the first, which is English
    return best if counts[best] >= 2 else "en"


def _words_of(text: str) -> Iterable[str]:
    return _WORD.findall(text.lower())
