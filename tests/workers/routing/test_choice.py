"""NeuroSwitch: what it reads out of a request, whom it chooses, and how it says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.workers.prompts import HARD, HELD_OUT, KNOWN, PROMPTS, UNSEEN
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import catalogue, preferences
from tokenrelay.protocol.models.catalogue import Catalogue, Choice, Model, Price, Traits
from tokenrelay.protocol.models.circuit import Vitals
from tokenrelay.protocol.models.routing_rules import KINDS, Kind, RoutingRules, Sign, Strategies, Strategy, Weights
from tokenrelay.protocol.wire import request
from tokenrelay.protocol.wire.request import ChatRequest, Message, ToolEntry
from tokenrelay.workers import routing
from tokenrelay.workers.routing import choose, features, rank

OURS = catalogue.parse((Path(catalogue.__file__).with_name("catalogue.toml")).read_text(encoding="utf-8"))
ALL = ("responses", "anthropic", "gemini", "local", "scripted")


def asks(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(message=text, **fields)


def read(text: str, **fields: Any) -> features.Features:
    return features.read(asks(text, **fields), OURS)


# -- what is asked ----------------------------------------------------------------------------------------------------


def accuracy(rows: list[tuple[Kind, str]]) -> float:
    return sum(read(text).kind == kind for kind, text in rows) / len(rows)


MEASURED = [
    # Measured 1.00, 0.92, 0.97, 0.89 and 0.74. All but the last were known while the signs were made; that one is what
    # to expect (the signs before had 0.68 of it). Most of what is missed is taken for chat. By chance it would be 0.17.
    (PROMPTS, 0.94),
    (HARD, 0.83),
    (UNSEEN, 0.90),
    (KNOWN, 0.84),
    (HELD_OUT, 0.70),
]


@pytest.mark.parametrize(("rows", "bound"), MEASURED, ids=["prompts", "hard", "unseen", "known", "held out"])
def test_most_prompts_are_read_as_what_they_are(rows: list[tuple[Kind, str]], bound: float) -> None:
    assert accuracy(rows) >= bound


def test_prompts_are_in_one_set_only() -> None:
    texts = [text for rows in (PROMPTS, HARD, UNSEEN, KNOWN, HELD_OUT) for _, text in rows]
    assert len(set(texts)) == len(texts)


def test_the_prompts_are_balanced() -> None:
    for rows in (PROMPTS, HARD, UNSEEN, KNOWN, HELD_OUT):
        assert len({sum(kind == each for each, _ in rows) for kind in KINDS}) == 1


HINTS: list[tuple[str, Kind, str | None, Strategy | None]] = [
    ("code: hello", "code", "code", None),
    ("CODE: hello", "code", "code", None),
    ("/code hello", "code", "code", None),
    ("  /Math hello", "maths", "math", None),
    ("translate: hello", "languages", "translate", None),
    ("/fast hello", "chat", "fast", "speed"),
    ("/best write a haiku", "creative", "best", "quality"),
    ("best: write a haiku", "creative", None, None),
    ("code:hello", "code", None, None),
    ("/unknown hello", "chat", None, None),
    ("note: hello", "chat", None, None),
]


@pytest.mark.parametrize(("text", "kind", "hint", "strategy"), HINTS)
def test_a_hint_at_the_beginning_says_it_itself(text: str, kind: Kind, hint: str | None, strategy: str | None) -> None:
    got = read(text)
    assert (got.kind, got.hint, got.strategy) == (kind, hint, strategy)


def test_a_turn_that_says_nothing_is_of_the_kind_of_the_one_before() -> None:
    turns = [Message("user", "Write a haiku about rain."), Message("assistant", "…"), Message("user", "And shorter.")]
    assert features.read(ChatRequest(messages=turns), OURS).kind == "creative"
    assert features.read(ChatRequest(messages=turns[2:]), OURS).kind == "chat"
    assert features.read(ChatRequest(messages=[Message("system", "Write a haiku.")]), OURS).kind == "chat"


def test_a_long_text_is_read_at_its_ends() -> None:
    assert read("Fix this bug: " + "lorem " * 20_000).kind == "code"
    assert read("lorem " * 20_000 + " Translate it.").kind == "languages"


LANGUAGES = [
    ("What is the time?", "en"),
    ("x", "en"),
    ("Was ist das und wie geht es dir?", "de"),
    ("Où est la gare et le port ?", "fr"),
    ("¿Dónde está la casa de mi abuela y el perro?", "es"),
    ("Come sono le cose e cosa ho fatto?", "it"),
    ("Как дела?", "ru"),
    ("今天天气怎么样", "zh"),
    ("今日は元気ですか", "ja"),
    ("안녕하세요", "ko"),
    ("مرحبا", "ar"),
    ("Τι κάνεις", "el"),
]


@pytest.mark.parametrize(("text", "language"), LANGUAGES)
def test_the_language_is_guessed(text: str, language: str) -> None:
    assert read(text).language == language


@pytest.mark.parametrize(("tokens", "length"), [(1, "short"), (40, "short"), (200, "medium"), (3_000, "long")])
def test_the_length_is_that_of_the_whole_conversation(tokens: int, length: str) -> None:
    got = read("abcd" * (tokens - 1))
    assert (got.tokens, got.length) == (tokens, length)
    assert read("x", system="abcd" * tokens).tokens > tokens


TOOLS: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"enable_tools": True}, True),
    ({"enable_tools": False, "tools": ["calculator"]}, False),
    ({"tools": []}, False),
    ({"tools": [ToolEntry(name="calculator")]}, True),
]


@pytest.mark.parametrize(("fields", "is_needed"), TOOLS)
def test_tools_are_needed_where_they_were_asked_for(fields: dict[str, Any], is_needed: bool) -> None:
    assert read("x", **fields).needs_tools is is_needed


def test_signs_are_words_stems_phrases_and_patterns() -> None:
    sign = Sign("code", 2.0, words=("alpha", "bet*", "gamma delt*", "漢字"), patterns=(r"\d{4}",))
    signs = features.Signs(RoutingRules(sign=(sign, Sign("maths", 0.5, words=("alpha",)))))
    found = {
        "Alpha!": {"code": 2.0, "maths": 0.5}, "alphas": {}, "BETTING": {"code": 2.0}, "be": {}, "gamma": {},
        "gamma-deltas": {"code": 2.0}, "gamma and delta": {}, "これは漢字です": {"code": 2.0}, "in 1999": {"code": 2.0},
        "alpha alpha better": {"code": 4.0, "maths": 0.5},
    }  # fmt: skip
    assert {text: signs.weigh(text) for text in found} == found


# -- who is best ------------------------------------------------------------------------------------------------------


def model(name: str, quality: int = 3, speed: int = 3, price: float = 1.0, **fields: Any) -> Model:
    strengths = fields.pop("strengths", ())
    return Model(
        name, fields.pop("provider", "P"), "local", f"up-{name}",
        price=Price(price, price), traits=Traits(quality, speed, strengths), auto=True, **fields,
    )  # fmt: skip


PLAIN = RoutingRules(
    least_quality=2,
    strategies=Strategies(
        balanced=Weights(1, 1, 1, 1), speed=Weights(0, 1, 0, 0), quality=Weights(1, 0, 0, 0),
        cost=Weights(0, 0, 1, 0), weighted=Weights(0, 0, 0, 0),
    ),
    hints={"code": "code", "fast": "speed"},
)  # fmt: skip
THREE = Catalogue(
    [
        model("quick", quality=2, speed=5, price=2, strengths=("chat",)),
        model("smart", quality=5, speed=2, price=20, strengths=("code",), provider="Q"),
        model("cheap", quality=3, speed=3, price=0.1),
    ],
    PLAIN,
)


def order(asked: ChatRequest, within: Catalogue = THREE, health: dict[str, Vitals] | None = None) -> list[str]:
    ranking = rank.rank(asked, within, within.choices(None, None), health)
    return [item.choice.model.id for item in ranking.ranked]


PREFERENCES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("speed", {"strategy": "speed"}, ["quick", "cheap", "smart"]),
    ("quality", {"strategy": "quality"}, ["smart", "cheap", "quick"]),
    ("cost", {"strategy": "cost"}, ["cheap", "quick", "smart"]),
    ("weights", {"strategy": "weighted", "weights": {"quality": 1, "cost": 0.1}}, ["smart", "cheap", "quick"]),
    ("weights alone", {"weights": {"speed": 5}}, ["quick", "cheap", "smart"]),
    ("avoid", {"strategy": "quality", "avoid": ["SMART"]}, ["cheap", "quick"]),
    ("avoid a provider", {"strategy": "quality", "avoid": ["q"]}, ["cheap", "quick"]),
    ("prefer", {"strategy": "quality", "prefer": ["quick"]}, ["quick", "smart", "cheap"]),
    ("prefer a provider", {"strategy": "cost", "prefer": ["Q"]}, ["smart", "cheap", "quick"]),
    ("what nobody knows", {"strategy": "speed", "mood": "sad"}, ["quick", "cheap", "smart"]),
]


@pytest.mark.parametrize(("wanted", "expected"), [row[1:] for row in PREFERENCES], ids=[row[0] for row in PREFERENCES])
def test_preferences_are_heard(wanted: dict[str, Any], expected: list[str]) -> None:
    assert order(asks("hello", preferences=wanted)) == expected


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "best"}, "preferences.strategy"),
    ({"strategy": 1}, "preferences.strategy"),
    ({"weights": {"colour": 1}}, "preferences.weights"),
    ({"weights": {"speed": -1}}, "preferences.weights.speed"),
    ({"weights": {"speed": 1}, "strategy": "cost"}, "preferences.weights"),
    ({"avoid": "smart"}, "preferences.avoid"),
    ({"prefer": ["smart", ""]}, "preferences.prefer[1]"),
]


@pytest.mark.parametrize(("wanted", "field"), FAULTS)
def test_a_preference_that_cannot_be_is_named_at_the_edge(wanted: dict[str, Any], field: str) -> None:
    for check in (preferences.parse, lambda value: request.from_object({"message": "x", "preferences": value})):
        with pytest.raises(TokenrelayError) as caught:
            check(wanted)
        assert (caught.value.code, caught.value.fields["field"]) == ("VALIDATION_ERROR", field)


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"avoid": ["smart", "nobody"]}, "preferences.avoid[1]"),
    ({"prefer": ["nobody"]}, "preferences.prefer[0]"),
    ({"weights": {"speed": 0}}, "preferences.weights"),
]


@pytest.mark.parametrize(("wanted", "field"), UNKNOWN)
def test_a_preference_that_means_nothing_here_is_named_at_the_choice(wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(TokenrelayError) as caught:
        order(asks("hello", preferences=wanted))
    assert (caught.value.code, caught.value.fields["field"]) == ("VALIDATION_ERROR", field)


def test_a_strength_in_what_is_asked_counts() -> None:
    pair = Catalogue([model("any"), model("coder", strengths=("maths", "code"))], PLAIN)
    assert order(asks("code: x"), pair) == ["coder", "any"]
    ranking = rank.rank(asks("code: x"), pair, pair.choices(None, None))
    assert ranking.ranked[0].reasons == ("good at code",)


def test_another_language_speaks_for_who_knows_languages() -> None:
    pair = Catalogue([model("any"), model("polyglot", strengths=("languages",))], PLAIN)
    assert order(asks("hello"), pair) == ["any", "polyglot"]
    assert order(asks("Как дела?"), pair) == ["polyglot", "any"]


LACKS: list[tuple[str, Model, ChatRequest, dict[str, Vitals], str]] = [
    ("tools", model("x", 5, 5, 0), asks("hi", enable_tools=True), {}, "takes no tools"),
    ("room", model("x", 5, 5, 0, context=100, accepts=("tools",)), asks("hi"), {}, "has no room for the conversation"),
    ("health", model("x", 5, 5, 0), asks("hi"), {"x": Vitals(circuit="open")}, "rests after failures"),
    ("quality", model("x", 1, 5, 0, strengths=("chat",)), asks("hi"), {}, "is a last resort"),
]


@pytest.mark.parametrize(("best", "asked", "health", "lack"), [row[1:] for row in LACKS], ids=[row[0] for row in LACKS])
def test_who_lacks_something_stands_behind_whatever_it_scores(
    best: Model, asked: ChatRequest, health: dict[str, Vitals], lack: str
) -> None:
    other = model("y", 2, 1, 9, accepts=("tools",))
    pair = Catalogue([best, other], PLAIN)
    assert order(asked, pair, health) == ["y", "x"]
    route = choose.route(asked, pair, ["local"], health)
    assert route.routing is not None
    assert f"x {lack}" in route.routing["reasons"]
    alone = choose.route(asked, Catalogue([best], PLAIN), ["local"], health)
    assert alone.routing is not None
    assert f"chosen though it {lack}" in alone.routing["reasons"]


def test_health_speaks_against_the_slow_and_the_failing() -> None:
    twins = Catalogue([model("a"), model("b")], PLAIN)
    assert order(asks("hi"), twins) == ["a", "b"]
    assert order(asks("hi"), twins, {"a": Vitals(ttft_ms=9_000), "b": Vitals(ttft_ms=300)}) == ["b", "a"]
    assert order(asks("hi"), twins, {"a": Vitals(error_rate=0.3)}) == ["b", "a"]
    assert order(asks("hi"), twins, {"a": Vitals(circuit="half_open")}) == ["a", "b"]


def test_the_same_is_asked_the_same_is_answered() -> None:
    asked = asks("compare x and y", preferences={"strategy": "cost"})
    assert choose.route(asked, OURS, ALL) == choose.route(asked, OURS, ALL)


# -- the route --------------------------------------------------------------------------------------------------------


def test_who_is_named_is_the_choice_whatever_its_health() -> None:
    health = {"claude-3-sonnet": Vitals(circuit="open")}
    route = routing.route(asks("x", model="claude"), OURS, ALL, health)
    assert (route.choice.upstream, route.label, route.routing) == ("claude-sonnet-5-5", "claude", None)
    assert [route.label_of(choice) for choice in (route.choice, *route.others)] == [
        "claude", "gpt-4-turbo", "gemini-1.5-pro",
    ]  # fmt: skip


TAKES_OVER: list[tuple[ChatRequest, list[str]]] = [
    (asks("x", model="Claude 3 Sonnet"), ["gpt-4-turbo", "gemini-1.5-pro"]),
    (asks("x", model="CLAUDE-3-sonnet"), ["gpt-4-turbo", "gemini-1.5-pro"]),
    (asks("x", model="claude-sonnet-5-5"), []),  # an exact upstream id: this one or nobody
    (asks("x", model="claude-sonnet-9"), []),
    (asks("x", model="claude", provider="Anthropic"), []),
    (asks("x", model="claude", preferences={"avoid": ["openai"]}), ["gemini-1.5-pro"]),
    (asks("x", model="claude", max_tokens=1_000_000), ["gpt-4-turbo", "gemini-1.5-pro"]),
    (asks("x", model="local"), []),
    (asks("x", model="scripted?tokens=3"), []),
]


@pytest.mark.parametrize(("asked", "others"), TAKES_OVER)
def test_who_may_take_over_from_one_that_was_named(asked: ChatRequest, others: list[str]) -> None:
    route = routing.route(asked, OURS, ALL)
    assert [choice.model.id for choice in route.others] == others


def test_a_fallback_must_be_able_to_call_tools_where_they_are_wanted() -> None:
    pair = Catalogue([model("a", fallbacks=("b", "c")), model("b"), model("c", accepts=("tools",))], PLAIN)
    assert [choice.model.id for choice in routing.route(asks("x", model="a"), pair, ["local"]).others] == ["b", "c"]
    route = routing.route(asks("x", model="a", enable_tools=True), pair, ["local"])
    assert [choice.model.id for choice in route.others] == ["c"]


def test_the_choice_and_its_reasons_are_told() -> None:
    route = routing.route(asks("code: x", preferences={"strategy": "quality"}), THREE, ["local"])
    assert route.label == route.choice.model.id == "smart"
    assert [choice.model.id for choice in route.others] == ["cheap", "quick"]
    assert route.routing == {
        "chosen": "smart",
        "strategy": "quality",
        "kind": "code",
        "reasons": ["begins with the hint code", "good at code"],
        "considered": [
            {"model": "smart", "score": 1.0},
            {"model": "cheap", "score": 0.5},
            {"model": "quick", "score": 0.25},
        ],
    }


def test_only_who_can_be_spoken_to_is_chosen() -> None:
    route = routing.route(asks("x"), OURS, ["local"])
    assert route.choice.model.id == "local"
    assert route.routing is not None
    assert "the only one available" in route.routing["reasons"]
    provider = routing.route(asks("x", provider="google"), OURS, ALL)
    assert provider.choice.model.provider == "Google"
    assert [choice.model.provider for choice in provider.others] == ["Google"]


NOBODY: list[tuple[ChatRequest, list[str]]] = [
    (asks("x"), []),
    (asks("x", model="claude"), ["local"]),
    (asks("x", preferences={"avoid": ["local"]}), ["local"]),
]


@pytest.mark.parametrize(("asked", "dialects"), NOBODY)
def test_where_nobody_is_left_it_is_said(asked: ChatRequest, dialects: list[str]) -> None:
    with pytest.raises(TokenrelayError) as caught:
        routing.route(asked, OURS, dialects)
    assert caught.value.code == "SERVICE_UNAVAILABLE"


def test_what_is_told_stays_small() -> None:
    many = Catalogue([model(f"{'m' * 180}{number}", strengths=("chat",)) for number in range(40)], PLAIN)
    route = routing.route(asks("x"), many, ["local"])
    assert route.routing is not None
    assert route.routing["chosen"].endswith("m0")
    assert len(msgspec.json.encode(route.routing)) < 1024
    for kind, text in PROMPTS[::7]:
        told = routing.route(asks(text), OURS, ALL).routing
        assert told is not None
        assert told["kind"] in KINDS, kind
        assert len(msgspec.json.encode(told)) < 1024


def test_every_kind_of_ours_has_a_model_that_is_good_at_it() -> None:
    for kind in KINDS:
        chosen = routing.route(asks("x"), OURS, ALL).choice if kind == "chat" else _chosen(kind)
        assert kind in chosen.model.traits.strengths


def _chosen(kind: Kind) -> Choice:
    hint = next(word for word, meaning in OURS.routing.hints.items() if meaning == kind)
    return routing.route(asks(f"/{hint} x"), OURS, ALL).choice


# -- parts ------------------------------------------------------------------------------------------------------------

SEEN = Catalogue((
    Model("blind", "Acme", "responses", "b", auto=True, fallbacks=("sees", "reads")),
    Model("sees", "Acme", "responses", "s", accepts=("images", "audio"), auto=True, fallbacks=("reads", "all")),
    Model("reads", "Acme", "responses", "r", accepts=("files",), auto=True),
    Model("all", "Acme", "responses", "a", accepts=("images", "files", "audio"), auto=True),
))  # fmt: skip
PICTURE = '{"type": "image_url", "image_url": {"url": "https://a.b/c"}}'
FILE = '{"type": "file", "file": {"file_url": "https://a.b/c"}}'


def shows(*parts: str, model: str | None = None) -> ChatRequest:
    named = "" if model is None else f'"model": "{model}", '
    return request.parse_json(f'{{{named}"messages": [{{"role": "user", "content": [{", ".join(parts)}]}}]}}'.encode())


def everybody(route: routing.Route) -> set[str]:
    return {route.choice.model.id, *(other.model.id for other in route.others)}


def test_neuroswitch_leaves_out_who_does_not_accept_what_was_asked() -> None:
    assert everybody(routing.route(shows(PICTURE), SEEN, ALL)) == {"sees", "all"}
    assert everybody(routing.route(shows(PICTURE, FILE), SEEN, ALL)) == {"all"}
    assert everybody(routing.route(shows('{"type": "text", "text": "a"}'), SEEN, ALL)) == {
        "blind",
        "sees",
        "reads",
        "all",
    }


def test_who_takes_over_accepts_it_too() -> None:
    assert everybody(routing.route(shows(PICTURE, model="sees"), SEEN, ALL)) == {"sees", "all"}


def test_one_that_was_named_and_does_not_accept_it_is_refused_with_the_field() -> None:
    with pytest.raises(TokenrelayError) as caught:
        routing.route(shows(PICTURE, FILE, model="sees"), SEEN, ALL)
    assert caught.value.fields == {"field": "messages[0].content[1]", "issue": "sees does not accept files"}
