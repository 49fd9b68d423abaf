"""Failover: what fails before its first token is seen by nobody; the next provider gets the whole history."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.workers.chain import (
    BODIES,
    BREAKS,
    DIALECTS,
    OURS,
    PROVIDERS,
    Chain,
    answers,
    in_turn,
    refuses,
    text_of,
    transcript,
)  # fmt: skip
from tests.workers.upstream import END, HEAD, Script, chunked, hangs, says
from tokenrelay.workers.providers.base import Accepts

NAMED = {"responses": "gpt-4-turbo", "anthropic": "claude", "gemini": "gemini-1.5-pro"}
IDS = {"responses": "gpt-4-turbo", "anthropic": "claude-3-opus", "gemini": "gemini-1.5-pro"}
PAIRS = [(name, list(BREAKS)[at - 1]) for at, name in enumerate(BREAKS)]


def order_of(name: str) -> list[str]:
    """The dialects that may answer to this name, in order."""
    row = OURS.find(name).model
    return [row.dialect, *(OURS.find(other).model.dialect for other in row.fallbacks)]


def run(scripts: dict[str, Script | None], settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    async def scene() -> Any:
        async with Chain(scripts, **(settings or {})) as chain:
            return await chain.told(**fields), {dialect: chain.asked(dialect) for dialect in scripts}, chain

    return asyncio.run(asyncio.wait_for(scene(), 20))


def all_well() -> dict[str, Script | None]:
    return {dialect: answers(BODIES[dialect]) for dialect in DIALECTS}


@pytest.mark.parametrize("name", NAMED.values())
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_third_answers_when_the_first_two_are_broken(name: str, first: str, second: str) -> None:
    one, two, three = order_of(name)
    scripts = all_well() | {one: BREAKS[first][0], two: BREAKS[second][0]}
    events, asked, _ = run(scripts, model=name)
    end = events[-1]
    assert text_of(events) == "Hello there", end
    assert [event["status"] for event in events if "status" in event] == ["started"]
    assert (end["provider"], end["finish_reason"]) == (PROVIDERS[three], "stop")
    assert end["resolved_model"] == {"responses": "gpt-6.2-sol", "anthropic": "claude-sonnet-5-5"}.get(
        three, "gemini-3.8-flash"
    )
    assert end["model"] in IDS.values()
    assert {event["model"] for event in events if event["token"]} == {end["model"]}
    tried = [(attempt["provider"], attempt["error_code"]) for attempt in end["attempts"]]
    assert tried == [(PROVIDERS[one], BREAKS[first][1]), (PROVIDERS[two], BREAKS[second][1])]
    assert len(asked[three]) == 1
    assert "What is six times seven?" in json.dumps(asked[three])
    assert "secret" not in json.dumps(events)


def test_neuroswitch_goes_down_its_ranking() -> None:
    broken = BREAKS["500"][0]
    events, _, _ = run({**all_well(), "responses": broken, "anthropic": broken}, message="code: x")
    end = events[-1]
    assert events[0]["routing"]["chosen"] == end["attempts"][0]["model"] == events[0]["model"]
    assert (text_of(events), end["provider"]) == ("Hello there", "Google")


def test_where_nothing_failed_nothing_is_told() -> None:
    events, _, _ = run(all_well(), model="claude")
    assert "attempts" not in events[-1]
    assert (events[-1]["model"], events[-1]["provider"]) == ("claude", "Anthropic")


EXACT = ["claude-sonnet-5-5", "claude-sonnet-9"]


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_id_is_answered_by_nobody_else_but_asked_again(name: str) -> None:
    scripts = {**all_well(), "anthropic": in_turn(refuses(500), refuses(529), answers(BODIES["anthropic"]))}
    events, asked, _ = run(scripts, model=name)
    assert (text_of(events), events[-1]["model"]) == ("Hello there", name)
    assert [attempt["provider"] for attempt in events[-1]["attempts"]] == ["Anthropic"] * 2
    assert (len(asked["anthropic"]), asked["responses"], asked["gemini"]) == (3, [], [])


def test_when_all_fail_the_end_is_honest_and_the_attempts_are_bounded() -> None:
    broken = refuses(503)
    events, asked, _ = run(dict.fromkeys(DIALECTS, broken), {"max_attempts": 4}, model="claude")
    end = events[-1]
    assert (end["error_code"], end["retryable"], len(end["attempts"])) == ("PROVIDER_ERROR", True, 4)
    assert sum(map(len, asked.values())) == 4


def test_the_time_is_bounded_too() -> None:
    events, _, _ = run(
        dict.fromkeys(DIALECTS, hangs()), {"first_token_timeout_s": 99, "first_token_budget_s": 0.3}, model="claude"
    )
    assert (events[-1]["error_code"], len(events[-1]["attempts"])) == ("TIMEOUT", 1)


def test_what_the_provider_asks_for_is_waited_if_it_fits() -> None:
    limited = refuses(429, None, "Retry-After: 1")
    scripts = {**all_well(), "anthropic": in_turn(limited, answers(BODIES["anthropic"]))}
    began_at = time.monotonic()
    events, _, _ = run(scripts, model="claude-sonnet-5-5")
    assert text_of(events) == "Hello there"
    assert time.monotonic() - began_at >= 1  # no sooner than it was told
    late = {**all_well(), "anthropic": in_turn(refuses(429, None, "Retry-After: 60"), answers(BODIES["anthropic"]))}
    events, asked, _ = run(late, model="claude-sonnet-5-5")
    assert (events[-1]["error_code"], events[-1]["retry_after"]) == ("RATE_LIMIT", 60)
    assert len(asked["anthropic"]) == 1


NOBODY_ELSE = {
    "malformed": refuses(400, {"type": "invalid_request_error", "message": "x"}),
    "by policy": refuses(400, {"code": "content_policy_violation", "message": "x"}),
}


@pytest.mark.parametrize("how", NOBODY_ELSE)
def test_what_is_the_requests_own_fault_goes_to_nobody_else(how: str) -> None:
    events, asked, chain = run({**all_well(), "anthropic": NOBODY_ELSE[how]}, model="claude")
    assert (events[-1]["error_code"], events[-1]["retryable"]) == ("PROVIDER_ERROR", False)
    assert (asked["responses"], asked["gemini"]) == ([], [])
    assert chain.health.vitals() == {}


def test_a_key_that_is_refused_speaks_against_all_models_of_its_provider() -> None:
    scripts = {**all_well(), "anthropic": refuses(403), "responses": refuses(401)}
    with capture_logs() as logs:
        events, asked, _ = run(scripts, {"max_attempts": 9}, message="code: x")
    assert (text_of(events), events[-1]["provider"]) == ("Hello there", "Google")
    assert (len(asked["anthropic"]), len(asked["responses"])) == (1, 1)
    alerts = [
        line["provider"] for line in logs if (line["event"], line["log_level"]) == ("credentials_refused", "error")
    ]
    assert sorted(alerts) == ["Anthropic", "OpenAI"]
    assert "planted" not in repr(logs)


def test_one_with_more_room_takes_what_was_too_long() -> None:
    too_long = refuses(400, {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens"})
    events, asked, _ = run({**all_well(), "anthropic": too_long}, model="claude")
    assert (text_of(events), events[-1]["model"]) == ("Hello there", "gpt-4-turbo")
    events, asked, _ = run({**all_well(), "responses": too_long}, model="gpt-4-turbo")
    assert (events[-1]["error_code"], events[-1]["retryable"]) == ("PROVIDER_ERROR", False)
    assert (asked["gemini"], asked["anthropic"]) == ([], [])


def test_after_the_first_token_nobody_takes_over_and_what_came_is_kept() -> None:
    half = BODIES["anthropic"][: BODIES["anthropic"].index(b"there")]
    cut = says(HEAD + chunked(half[: half.rindex(b"\n\n") + 2]), close=True)
    events, asked, chain = run({**all_well(), "anthropic": cut}, model="claude")
    end = events[-1]
    assert (text_of(events), end["error_code"], end["retryable"]) == ("Hello ", "PROVIDER_ERROR", True)
    assert (len(asked["anthropic"]), asked["responses"], asked["gemini"]) == (1, [], [])
    assert chain.health.vitals()["claude-3-sonnet"].error_rate > 0


def test_one_that_rests_is_not_asked() -> None:
    async def scene() -> None:
        async with Chain({**all_well(), "anthropic": refuses(500)}) as chain:
            for _ in range(OURS.routing.health.open_after_failures):
                assert (await chain.told(model="claude"))[-1]["attempts"][0]["provider"] == "Anthropic"
            asked = len(chain.asked("anthropic"))
            assert "attempts" not in (await chain.told(model="claude"))[-1]
            assert len(chain.asked("anthropic")) == asked
            end = (await chain.told(model="claude-sonnet-5-5"))[-1]  # nobody may take over
            assert (end["error_code"], end["retryable"], end["retry_after"] > 1) == ("SERVICE_UNAVAILABLE", True, True)
            assert len(chain.asked("anthropic")) == asked

    asyncio.run(scene())


# -- in a later round -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", DIALECTS)
@pytest.mark.parametrize("answerer", DIALECTS)
def test_another_provider_goes_on_from_the_first_ones_tool_calls(caller: str, answerer: str) -> None:
    """Round one is `caller`'s: text and three calls. Then it breaks, and `answerer` gets all of it in its own words."""
    first = answers(transcript(caller, "parallel_tool_calls"))
    scripts: dict[str, Script | None] = {dialect: refuses(500) for dialect in DIALECTS}
    scripts[answerer] = answers(BODIES[answerer])
    scripts[caller] = in_turn(first, answers(BODIES[caller]) if caller == answerer else refuses(500))
    events, asked, _ = run(scripts, model=NAMED[caller], tools=["current_time"])
    end = events[-1]
    assert text_of(events) == "Two at once.\n\nHello there", end
    assert (end["provider"], end["finish_reason"]) == (PROVIDERS[answerer], "stop")
    calls = [event for event in events if "tool_name" in event]
    assert [event["tool_name"] for event in calls] == [*("weather", "weather", "now"), *("weather", "weather", "now")]
    assert bool(end.get("attempts")) == (caller != answerer)
    HISTORIES[answerer](asked[answerer][-1])


def responses_history(body: dict[str, Any]) -> None:
    items = body["input"]
    said = [item for item in items if item.get("role") == "assistant"]
    called = [item for item in items if item.get("type") == "function_call"]
    given = [item for item in items if item.get("type") == "function_call_output"]
    assert "Two at once." in json.dumps(said)
    assert json.loads(called[0]["arguments"]) == {"city": "Zürich"}
    assert len({item["call_id"] for item in called}) == 3
    assert [item["call_id"] for item in called] == [item["call_id"] for item in given]


def anthropic_history(body: dict[str, Any]) -> None:
    *_, said, given = body["messages"]
    kinds = [block["type"] for block in said["content"]]
    assert (said["role"], kinds) == ("assistant", ["text", "tool_use", "tool_use", "tool_use"])
    assert said["content"][0]["text"] == "Two at once."
    assert said["content"][1]["input"] == {"city": "Zürich"}
    ids = [block["id"] for block in said["content"][1:]]
    assert len(set(ids)) == 3
    assert (given["role"], [block["tool_use_id"] for block in given["content"]]) == ("user", ids)


def gemini_history(body: dict[str, Any]) -> None:
    *_, said, given = body["contents"]
    assert (said["role"], said["parts"][0]["text"]) == ("model", "Two at once.")
    called = [part["functionCall"] for part in said["parts"][1:]]
    assert [call["name"] for call in called] == ["weather", "weather", "now"]
    assert called[0]["args"] == {"city": "Zürich"}
    assert said["parts"][1]["thoughtSignature"]
    assert [part["functionResponse"]["name"] for part in given["parts"]] == ["weather", "weather", "now"]


HISTORIES = {"responses": responses_history, "anthropic": anthropic_history, "gemini": gemini_history}


def test_what_is_chunked_in_another_way_is_the_same() -> None:
    """The first piece is no special case: an answer byte by byte, and one whose first piece is its end."""
    body = BODIES["anthropic"]
    slow = says(HEAD, *(chunked(body[at : at + 1]) for at in range(len(body))), END)
    events, _, _ = run({**all_well(), "anthropic": slow}, model="claude")
    assert text_of(events) == "Hello there"


# -- what the caller brings along --------------------------------------------------------------------------------------

CALLS = [("weather", '{"city": "Zürich"}'), ("weather", '{"city": "Oslo"}'), ("now", "{}")]
HISTORY = [
    {"role": "user", "content": "weather?"},
    {
        "role": "assistant",
        "content": "Two at once.",
        "tool_calls": [
            {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(CALLS)
        ],
    },
    *({"role": "tool", "tool_call_id": f"c{number}", "content": f"result {number}"} for number in range(len(CALLS))),
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_results_of_the_callers_own_functions_are_told_in_each_providers_words(dialect: str) -> None:
    events, asked, _ = run(all_well(), message=None, messages=HISTORY, model=NAMED[dialect])
    assert text_of(events) == "Hello there", events[-1]
    body = asked[dialect][-1]
    if dialect == "gemini":  # a signature is its own; what another wrote has none
        body["contents"][-2]["parts"][1].setdefault("thoughtSignature", "none")
    HISTORIES[dialect](body)
    told = json.dumps(body, ensure_ascii=False)
    assert [told.count(f"result {number}") for number in range(len(CALLS))] == [1, 1, 1]


def test_what_a_model_does_not_take_is_left_out_and_said() -> None:
    async def scene() -> None:
        async with Chain(all_well()) as made:
            provider: Any = made.providers["anthropic"]
            provider._accepts = Accepts(temperature=False, tools=False)
            fields = {"model": "claude", "temperature": 0, "top_p": 0.5, "tools": ["calculator"]}
            end = (await made.told(**fields))[-1]
            assert end["left_out"] == ["temperature", "tools"]
            [body] = made.asked("anthropic")
            assert not {"temperature", "tools"} & set(body)
            assert body["top_p"] == 0.5
            assert "left_out" not in (await made.told(model="claude", top_p=0.5))[-1]

    asyncio.run(scene())
