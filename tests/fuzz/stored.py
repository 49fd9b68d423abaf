"""Rubbish where only processes of ours write, and settings that somebody mistyped: what must hold for all of it."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack
from pydantic import ValidationError

from tests.fuzz.cases import bounded, mutated
from tokenrelay.protocol.events import Completion, Failure, Started, Token, ToolCall, ToolResult
from tokenrelay.protocol.fronts import asked
from tokenrelay.protocol.models import catalogue, circuit
from tokenrelay.protocol.store import context, entries, worker_registry
from tokenrelay.protocol.store.worker_registry import Offer
from tokenrelay.server.settings import Settings

EVENTS: Final = (
    Started(1, "m"), Token(1, "m", "héllo "), ToolCall(1, "m", "c", "calculator", {"a": [1, {}]}),
    ToolResult(1, "m", "c", "calculator", {}, "42", False), Completion(1, "m", "m", "p", "stop", 1, 2, 0.5),
    Failure(1, "TIMEOUT", "too late", True),
)  # fmt: skip
ODD: Final[tuple[Any, ...]] = (
    math.nan,
    math.inf,
    -1,
    2**63,
    2**64 - 1,
    "",
    "\x00",
    b"\xff",
    None,
    True,
    [],
    {},
    [[]],
    1e308,
    -0.5,
)
OURS: Final = catalogue.parse(Path(catalogue.__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
PATTERNS: Final = [re.compile(pattern) for sign in OURS.routing.sign for pattern in sign.patterns]
PIECES: Final = ("1", "a", "A_", " ", "\n", "+", "(", ".", ",", "\\", "{", "$", "-", "def ", "x = ", '"', "é", "\u2028")


def odd(rng: random.Random, depth: int = 0) -> Any:
    if depth < 2 and rng.random() < 0.3:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(8))]
    return rng.choice(ODD)


def rubbish(rng: random.Random, ours: bytes) -> bytes:
    """Of ours with a few bytes changed, of ours with one value exchanged, or nothing of ours."""
    match rng.randrange(3):
        case 0:
            return mutated(rng, ours)
        case 1:
            value = msgpack.unpackb(ours, strict_map_key=False)
            if isinstance(value, dict) and value:
                value[rng.choice(list(value))] = odd(rng)
            elif isinstance(value, list) and value:
                value[rng.randrange(len(value))] = odd(rng)
            return bytes(msgpack.packb(value))
        case _:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))


def an_entry_is_read_or_corrupt(rng: random.Random) -> None:
    raw = rubbish(rng, entries.pack(rng.choice(EVENTS)))

    def read() -> None:
        try:
            entry = entries.unpack_entry(raw)
            entries.event_of(entry)
            entries.join_pieces(enumerate([entry, entry], 1))
            entries.unpack_publication(b"%d\n" % rng.randrange(9) + raw)
        except entries.CorruptEntry:
            return

    bounded(raw, read)


def what_workers_say_of_themselves_is_read_or_ignored(rng: random.Random) -> None:
    offer = worker_registry.pack(Offer(1, ("local",), {"openai": "no key"}, 1, 2))
    found = worker_registry.unpack(rubbish(rng, offer))
    assert found is None or found.answers("m", "local") in (True, False)
    asked.unpack(rubbish(rng, asked.pack(asked.Remembered("ui", 1, options={"message_id": "m"}))))
    context.unpack(rubbish(rng, context.pack(context.Context("request-1"))))


def the_health_of_a_model_is_read_or_unknown(rng: random.Random) -> None:
    record = circuit.pack(circuit.Record(1.0, 0.5, 1.0, 3, 2, 1.0, 2.0))
    for found in circuit.unpack_all({b"m": rubbish(rng, record), b"\xff": b""}).values():
        vitals = found.vitals(OURS.routing.health, rng.choice((0.0, 1.7e9)))
        assert vitals.ttft_ms is None or round(vitals.ttft_ms) is not None


def no_text_makes_a_pattern_slow(rng: random.Random) -> None:
    text = "".join(rng.choices(rng.sample(PIECES, rng.randint(1, 4)), k=rng.choice((500, 4_000))))
    text = "".join(part * rng.choice((1, 200)) for part in re.findall(r"\s+|\S+", text))[:8_000]
    for pattern in rng.sample(PATTERNS, 20):
        bounded(text.encode(), lambda pattern=pattern: pattern.search(text) and None)  # type: ignore[misc]


def no_settings_open_the_service(rng: random.Random) -> None:
    keys = "".join(
        rng.choices((",", " ", "a:b", ":", "a", "\t", "\u00a0", ";", "é:x", "=", "\n"), k=rng.randrange(1, 6))
    )
    try:
        settings = Settings(api_keys=keys)
    except ValidationError:
        return
    assert not settings.is_open, repr(keys)


CASES: Final[dict[str, Callable[[random.Random], None]]] = {
    each.__name__: each
    for each in (
        an_entry_is_read_or_corrupt,
        what_workers_say_of_themselves_is_read_or_ignored,
        the_health_of_a_model_is_read_or_unknown,
        no_text_makes_a_pattern_slow,
        no_settings_open_the_service,
    )
}
