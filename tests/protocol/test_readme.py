"""The wire text and the code say the same."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest

from tests.protocol.cases import PROTOCOL, STREAM
from tokenrelay.protocol import errors, events, lifecycle
from tokenrelay.protocol.reading import session
from tokenrelay.protocol.store import entries, keys, scripts, worker_registry
from tokenrelay.protocol.wire import cursor, event_json, parts, request, sse, websocket
from tokenrelay.protocol.wire.parts import Bounds
from tokenrelay.protocol.wire.websocket import Close

README = (PROTOCOL / "README.md").read_text(encoding="utf-8")
WORDS = " ".join(README.split())  # a sentence may be broken anywhere


WRITES = r"'(H(?:SET|DEL|INCRBY))', (?:meta|name\(\w+, 'meta'\)|KEYS\[1\]), ([^)]*)"


def table(head: str) -> list[list[str]]:
    """The rows of the one table whose head is so."""
    pattern = re.escape(f"| {head} |") + r"\n\|[-|]+\|\n((?:\|.*\|\n)+)"
    [body] = re.findall(pattern, README)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.strip().split("\n")]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_errors_are_the_rows_of_the_table() -> None:
    expected = [
        [f"`{row.code}`", str(row.status), str(row.close_code or ""), "yes" if row.retryable else "no", row.meaning]
        for row in errors.ROWS
    ]
    assert table("code | HTTP | WebSocket | retryable | meaning") == expected


def test_the_lifecycle_is_the_table() -> None:
    assert table("from | what happens | to") == [list(row) for row in lifecycle.TRANSITIONS]


def test_close_codes_are_all_there() -> None:
    rows = table("close | name | when")
    assert [(int(code), name) for code, name, _ in rows] == [(int(close), close.name) for close in Close]
    assert all(when for _, _, when in rows)


def test_cursors_are_answered_as_the_table_says() -> None:
    rows = table("cursor | answer")
    assert set(names(rows[0][0])) == cursor.FROM_THE_START - {""}
    for _, answer in rows:
        for status, code in re.findall(r"(\d{3}) `([A-Z_]+)`", answer):
            assert errors.TABLE[code].status == int(status)


def test_entries_have_the_fields_of_their_events() -> None:
    expected = {tag: list(kind.__struct_fields__) for tag, kind in entries.TAGS.items()}
    assert {names(tag)[0]: names(fields) for tag, _, fields in table("tag | event | fields after the tag")} == expected


def test_every_name_in_redis_is_there() -> None:
    rows = table("name | type | holds")
    told = {name.replace("{ID}", f"{{{STREAM}}}") for row in rows for name in names(row[0])}
    digest = re.compile(r"[0-9a-f]{32}$")
    of_owner = {digest.sub("NAME", name) for name in (keys.owner("a"), keys.active("a"), keys.rate("a"))}
    assert told == {
        keys.log(STREAM), keys.meta(STREAM), keys.live(STREAM), *of_owner, digest.sub("HASH", keys.idempotency("", "")),
        keys.part(STREAM, 0)[:-1] + "N", digest.sub("HASH", keys.chat("", "")), keys.PARTS, keys.PARTS_BYTES,
        keys.ENDED, keys.ENDED_DROPPED,
        keys.WAITING, keys.waiting_for("")[:-40] + "SET", keys.NEEDS,
        keys.LEASES, keys.WORKERS, keys.WAKE, keys.CANCEL, keys.probe("ID"), keys.HEALTH,
        digest.sub("MODEL", keys.trial("a")), keys.secret(7).replace("7", "PERIOD"),
        keys.ARQ_JOB + "ID",
        digest.sub("CALL", keys.echo("", "")).replace(keys.digest(""), "NAME"),
    }  # fmt: skip


def test_the_metadata_has_the_fields_that_the_scripts_write() -> None:
    [row] = [row for row in table("name | type | holds") if "meta" in row[0]]
    told = set(names(row[2])) - {"tr:active:NAME"}
    written = set[str]()
    for script in scripts.ALL:
        for command, fields in re.findall(WRITES, script.text):
            words = [word.strip(" '") for word in fields.split(",")]
            written |= set(words[::2] if command != "HDEL" else words)
    given = {"owner", "model", "on_disconnect", "context", "front", "needs", "metadata"}  # as arguments
    assert told == {word for word in written if "(" not in word} | given


def test_scripts_and_what_append_replies_are_there() -> None:
    assert [row[0] for row in table("script | asked by | promise")] == [script.name for script in scripts.ALL]
    told = [names(row[0])[0] for row in table("outcome | meaning | the worker")]
    replied = set(re.findall(r"return \{'(\w+)'", scripts.APPEND.text))
    assert set(told) == replied
    assert len(told) == len(replied)


def test_events_have_the_fields_that_the_code_gives_them() -> None:
    told = {row[0]: set(names(row[2])) - {'""'} for row in table("event | recognised by | fields")}
    stamped = dict.fromkeys(event_json.accepted_data(STREAM, "m", 0))
    assert told["accepted"] == stamped.keys()
    given: list[tuple[str, events.Event]] = [
        ("started", events.Started(0, "m", {})),
        ("token", events.Token(0, "m", "a")),
        ("thinking begins", events.ThinkingStarted(0, "m")),
        ("thinking", events.Thinking(0, "m", "a")),
        ("tool arguments", events.ToolInput(0, "m", "c", "n", "a")),
        ("data", events.Data(0, "m", "n", 1)),
        ("completion", events.Completion(
            0, "m", "u", "p", "stop", 1, 1, 1.0, [{}], ["seed"], {"queue_ms": 1.0}, events.usage(1, 1), 1.0
        )),
        ("error", events.Failure(0, "TIMEOUT", "t", True, 1.0, [{}], events.usage(1, 1), 1.0, "model")),
    ]  # fmt: skip
    shown = {"`show`", "show", "thinking", "tool_input"}
    for name, event in given:
        told[name] -= shown - event_json.data_of(entries.unpack_entry(entries.pack(event)), STREAM).keys()
        assert told[name] == event_json.data_of(entries.unpack_entry(entries.pack(event)), STREAM).keys(), name
    called = entries.unpack_entry(entries.pack(events.ToolCall(0, "m", "c", "n", {}, 1)))
    assert told["tool call"] == event_json.data_of(called, STREAM).keys()
    result = events.ToolResult(0, "m", "c", "n", {}, "r", failed=True)
    data = event_json.data_of(entries.unpack_entry(entries.pack(result)), STREAM)
    assert told["tool call"] - {"own"} | told["tool result"] == data.keys()


def test_the_fields_of_a_request_are_there() -> None:
    told = {name for row in table("field | is") for name in names(row[0])}
    assert told == {field.name for field in msgspec.structs.fields(request.ChatRequest)}
    kinds = {names(row[0])[0].split('"')[1] for row in table("part | is")}
    assert kinds == {str(part.__struct_config__.tag) for part in get_args(parts.Part)}


def test_messages_are_there() -> None:
    said = [names(row[0])[0] for row in table("client sends | fields | answer")]
    for kind in said:
        [command] = websocket.parse_frame(
            event_json.to_json({"type": kind, "message": "m", "stream_id": STREAM}), websocket.JSON
        )
        assert type(command).__name__.lower() == kind
    kinds = ["started", "event", "error", "pong", "reconnect"]
    assert [names(row[0])[0] for row in table("server sends | fields")] == kinds
    assert all(f"`{name}`" in README for name in websocket.DIALECTS)


@pytest.mark.parametrize(
    "sentence",
    [
        "at most 2^53-1",
        f"After {session.HEARTBEAT_S:.0f} s without a write",
        f"`{sse.HEARTBEAT.decode().strip()}`",
        f"an array of 1 to {websocket.MAX_MESSAGES_PER_FRAME}",
        f"at most {websocket.MAX_REF_CHARACTERS} characters or an integer",
        f"at most {events.MAX_TOOL_RESULT_BYTES:,} bytes of UTF-8",
        f"any JSON, at most {events.MAX_DATA_BYTES:,} bytes of it",
        f"`data_name` (1 to {events.MAX_NAME_CHARACTERS} characters)",
        f"at most {entries.MAX_ENTRY_BYTES:,} bytes",
        f"at most {entries.MAX_TOKEN_CHARACTERS:,} characters",
        f"at most {scripts.MAX_BATCH_ENTRIES} entries and {scripts.MAX_BATCH_BYTES:,} bytes",
        f"for {scripts.LEASE_MS:,} ms; renew it every {scripts.RENEW_EVERY_S} s",
        f"suspect for {scripts.SUSPICION_MS // 1000} s first",
        f"at most {lifecycle.MAX_ATTEMPTS} times in all",
        f"1 to {request.MAX_MESSAGES:,} of",
        f"at most {request.MAX_DISCONNECT_GRACE_S:,}:",
        f"at most {request.MAX_METADATA} strings; names of 1 to {request.MAX_METADATA_NAME} characters",
        f"values of at most {request.MAX_METADATA_VALUE} |",
        f"at most {Bounds().parts} parts that are not text, each of at most {Bounds().part_bytes:,} bytes",
        f"all together of at most {Bounds().total_bytes:,} ",
        " ".join(f"`{effort}`" for effort in get_args(request.Effort)),
        f"for {scripts.HOLD_MS // 1000} s or until start",
        f"void {worker_registry.OFFER_MS // 1000} s after",
        f"up to {sse.MAX_EVENT_BYTES // 2**20} MiB",
        " ".join(f"`{state}`" for state in ("queued", "running", "cancelling", "completed", "cancelled", "failed")),
        "`finish_reason`: " + " ".join(f"`{reason}`" for reason in get_args(events.FinishReason)),
    ],
)
def test_numbers_and_words_are_those_of_the_code(sentence: str) -> None:
    assert sentence in WORDS


def test_the_largest_id_is_what_it_says() -> None:
    assert cursor.MAX_ID == 2**53 - 1


def test_its_example_is_made_of_real_frames() -> None:
    [example] = re.findall(r"```\n(retry: .*?)```", README, re.DOTALL)
    decoder = sse.Decoder()
    frames: list[Any] = decoder.feed(example.replace(",…", "").encode())
    assert [frame.event_id for frame in frames] == ["", "1", "2"]
    assert all(isinstance(msgspec.json.decode(frame.data)["token"], str) for frame in frames)
