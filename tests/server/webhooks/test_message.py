"""The body of a webhook is the stream's snapshot within its bounds, and is signed as its receivers verify it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tokenrelay.protocol.events import Completion, Data, Event, Failure, Started, Thinking, Token, ToolCall, ToolResult
from tokenrelay.protocol.store.entries import pack, unpack_entry
from tokenrelay.server.settings import parse_webhook_secrets
from tokenrelay.server.store.log import Description
from tokenrelay.server.webhooks import signature
from tokenrelay.server.webhooks.message import MAX_PART_BYTES, Message
from tokenrelay.server.webhooks.sender import MAX_RETRY_AFTER_S, pause_ms

END = Completion(5, "m", "m", "Acme", "stop", 3, 4, 1.5)


def sent(*events: Event, state: Any = "completed", lost: bool = False) -> dict[str, Any]:
    message = Message()
    message.take(1, [unpack_entry(pack(event)) for event in events])
    if lost:
        message.lose()
    found = Description("stream-1", "alice", state, len(events), "m", 1, False, 5, True, metadata={"order": "41"})
    body = message.body(found)
    assert body.isascii()
    told: dict[str, Any] = json.loads(body)
    return told


def test_it_says_what_a_snapshot_says() -> None:
    call = ToolCall(2, "m", "c1", "lookup", {"order": 7})
    result = ToolResult(2, "m", "c1", "lookup", {"order": 7}, "sent")
    told = sent(
        Started(1, "m"), Token(2, "m", "Grüße "), call, result, Data(3, "m", "n", [1]), Token(4, "m", "dir"), END
    )
    assert (told["type"], told["state"], told["text"]) == ("stream.completed", "completed", "Grüße dir")
    assert (told["metadata"], told["owner"], told["stream_id"]) == ({"order": "41"}, "alice", "stream-1")
    assert told["tool_calls"][0]["tool_result"] == "sent"
    assert told["data"] == [{"data_name": "n", "data": [1]}]
    assert (told["last_event_id"], told["finish_reason"], told["truncated"]) == (7, "stop", [])
    assert told["usage"]["total_tokens"] == 7


def test_a_failure_is_told_with_what_was_written() -> None:
    told = sent(Started(1, "m"), Token(2, "m", "half"), Failure(3, "WORKER_LOST", "gone", True), state="failed")
    assert (told["type"], told["text"], told["error"]["error_code"]) == ("stream.failed", "half", "WORKER_LOST")


def many(event: Event) -> Iterable[Event]:
    return (event for _ in range(80))  # of 8 KiB each


@pytest.mark.parametrize(
    ("field", "event"),
    [
        ("text", Token(1, "m", "ü" * 4096)),
        ("thinking", Thinking(1, "m", "ü" * 4096)),
        ("data", Data(1, "m", "n", "x" * 8192)),
        ("tool_calls", ToolResult(1, "m", "c", "t", {}, "x" * 8192)),
    ],
)
def test_each_part_is_cut_at_its_bound_and_the_end_is_told(field: str, event: Event) -> None:
    told = sent(*many(event), END)
    assert told["truncated"] == [field]
    assert told["finish_reason"] == "stop"
    assert told["last_event_id"] == 81
    assert len(json.dumps(told[field], ensure_ascii=False).encode()) <= MAX_PART_BYTES + 200
    if field in ("text", "thinking"):
        assert set(told[field]) == {"ü"}


def test_text_is_cut_within_a_token_but_not_within_a_character() -> None:
    told = sent(*(Token(1, "m", "a" + "ü" * 4095) for _ in range(80)), END)
    assert MAX_PART_BYTES - 1 <= len(told["text"].encode()) <= MAX_PART_BYTES


def test_what_is_not_in_redis_any_more_is_named() -> None:
    assert sent(Started(1, "m"), lost=True)["truncated"] == ["text", "thinking", "tool_calls", "data"]


def test_the_official_library_verifies_each_of_two_secrets() -> None:
    new, old, other = (f"whsec_{letters * 8}" for letters in ("QUJD", "REVG", "R0hJ"))
    body = json.dumps({"text": "Grüße"}).encode()
    headers = signature.headers("stream-1", int(time.time()), body, parse_webhook_secrets(f"{new}, {old}"))
    for secret in (new, old):
        assert Webhook(secret).verify(body, headers) == {"text": "Grüße"}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body + b" ", headers)


def test_pauses_grow_to_ten_minutes_and_a_receiver_may_ask_for_an_hour() -> None:
    assert 800 <= pause_ms(1) <= 1_200
    assert 6_400 <= pause_ms(4) <= 9_600
    assert pause_ms(200) <= 720_000
    assert pause_ms(1, 90.0) == 90_000
    assert pause_ms(1, 10**9) == MAX_RETRY_AFTER_S * 1000
