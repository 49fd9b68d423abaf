"""The Lua scripts as data: their arguments and replies. What they do is tested on a real Redis, in `tests/contract`."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
import pytest

from tests.protocol.cases import STREAM
from tokenrelay.protocol import lifecycle
from tokenrelay.protocol.store import keys, scripts
from tokenrelay.protocol.store.scripts import (
    AppendReply,
    Argument,
    Claim,
    Limits,
    NewStream,
    ReapReply,
    RenewReply,
    Script,
    StartReply,
)

NEW = NewStream(STREAM, "alice", "claude", b"asked", "continue", None, "print")


def parts(arguments: list[Argument]) -> tuple[Argument, list[Argument], list[Argument]]:
    """The sha, the keys and the rest, as EVALSHA reads them."""
    count = arguments[1]
    assert isinstance(count, int)
    return arguments[0], arguments[2 : 2 + count], arguments[2 + count :]


# -- texts ------------------------------------------------------------------------------------------------------------


EVERY = (*scripts.ALL, *scripts.IN_CLUSTER, scripts.APPEND_MORE)


@pytest.mark.parametrize("script", EVERY, ids=lambda script: script.name)
def test_a_script_is_named_by_the_sha_of_its_text(script: Script) -> None:
    for text, sha in ((script.text, script.sha), (script.cluster_text, script.cluster_sha)):
        assert sha == hashlib.sha1(text.encode()).hexdigest()
        assert text.isascii()
        assert "{{" not in text, "a brace of Python was left in"


@pytest.mark.parametrize("script", EVERY, ids=lambda script: script.name)
def test_in_a_cluster_a_script_takes_every_name_from_its_slot(script: Script) -> None:
    text = script.cluster_text
    assert text.startswith("#!lua\n")
    assert not re.search(r"'(tr|arq):[a-z]", text)
    assert "'PUBLISH'" not in text
    arguments = script.in_cluster(script.arguments([], ["given"]), "abc")
    assert arguments == [script.cluster_sha, 1, "tr:{abc}:never", "given"]


def test_what_writes_tokens_and_what_writes_an_end_differ_in_the_end_only() -> None:
    assert scripts.append(STREAM, 1, 1, [b"a"], end_state="", retention_ms=1)[0] == scripts.APPEND_MORE.sha
    bodies = [
        set(each.text.partition("local log, meta =")[2].splitlines()) for each in (scripts.APPEND, scripts.APPEND_MORE)
    ]
    assert bodies[0] - bodies[1] == {"settle(id, state, retention)"}
    assert bodies[1] - bodies[0] == {"if new == 1 then keep_log(id, retention) end"}


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_a_script_asks_nobody_but_redis_for_the_time(script: Script) -> None:
    assert "redis.call('TIME')" in script.text
    assert not re.search(r"\bos\.|math\.random", script.text)


def test_names_in_the_scripts_are_the_names_of_keys() -> None:
    named = {name for script in scripts.ALL for name in re.findall(r"'(tr:[a-z:]*|arq:[a-z]+:)", script.text)}
    known = {keys.WAITING, keys.LEASES, keys.WAKE, keys.CANCEL, keys.HEALTH, keys.ARQ_JOB, keys.STREAM}
    known |= {keys.PARTS, keys.PARTS_BYTES, keys.QUEUED, keys.NEEDS, f"{keys.WAITING}:"}
    known |= {keys.ENDED, keys.ENDED_DROPPED}
    assert named == known


def test_every_script_is_there_once() -> None:
    assert [script.name for script in scripts.ALL] == [
        "hold", "start", "drop", "claim", "append", "renew", "release", "cancel", "reap", "share", "forget",
        "due", "notified",
    ]  # fmt: skip
    assert len({script.sha for script in scripts.ALL}) == len(scripts.ALL)


# -- arguments --------------------------------------------------------------------------------------------------------


def test_start_takes_the_stream_its_bounds_and_its_fields() -> None:
    limits = Limits(100, max_active=3, per_minute=5, max_bytes=7, share_percent=50)
    sha, names, rest = parts(scripts.start(NEW, limits, job=b"job", job_ttl_ms=9, retention_ms=60))
    assert sha == scripts.START.sha
    assert names == [keys.meta(STREAM), keys.owner("alice"), keys.active("alice"), keys.rate("alice"), "", ""]
    assert rest[:13] == [STREAM, "print", 100, 60, b"job", 9, 3, 5, "", 7, 50, 5, 0]
    assert dict(zip(rest[13::2], rest[14::2], strict=True)) == {
        "owner": "alice", "model": "claude", "request": b"asked", "on_disconnect": "continue",
    }  # fmt: skip


def test_start_names_the_chat_and_the_parts_if_there_are_any() -> None:
    new = msgspec.structs.replace(NEW, chat_id="c", front=b"f", parts="3:1:ab:id")
    _, names, rest = parts(scripts.start(new, Limits(0), job=b"", job_ttl_ms=9, retention_ms=60))
    assert names[-1] == keys.chat("alice", "c")
    assert rest[8] == "3:1:ab:id"
    assert dict(zip(rest[13::2], rest[14::2], strict=True))["front"] == b"f"


def test_start_names_the_idempotency_key_if_there_is_one() -> None:
    new = NewStream(STREAM, "alice", "claude", b"asked", "continue", "key", "print")
    _, names, _ = parts(scripts.start(new, Limits(1), job=b"", job_ttl_ms=9, retention_ms=60))
    assert names[-2] == keys.idempotency("alice", "key")


def test_what_is_needed_is_the_same_text_for_the_same_rows() -> None:
    assert scripts.needs(["b", "é", "a", "b"]) == '["a","b","é"]'
    new = NewStream(STREAM, "alice", "claude", b"asked", "continue", None, "print", needs=scripts.needs(["a"]))
    _, _, rest = parts(scripts.start(new, Limits(0), job=b"", job_ttl_ms=9, retention_ms=60))
    assert dict(zip(rest[13::2], rest[14::2], strict=True))["needs"] == '["a"]'


def test_append_takes_entries_in_order_after_what_says_where_they_go() -> None:
    arguments = scripts.append(STREAM, 2, 7, [b"a", b"b"], end_state="completed", retention_ms=60)
    assert parts(arguments) == (
        scripts.APPEND.sha,
        [keys.log(STREAM), keys.meta(STREAM)],
        [STREAM, 2, 7, "completed", 60, 1, b"a", b"b"],
    )


ARGUMENTS: list[tuple[str, list[Argument], Script, list[Argument], list[Argument]]] = [
    ("claim", scripts.claim(5, 4500, "w", b"f", 9, ("a", "b")), scripts.CLAIM, [], [5, 4500, "w", b"f", 9, "a", "b"]),
    ("renew", scripts.renew(4500, 60, [("x", 1), ("y", 2)]), scripts.RENEW, [], [4500, 60, "x", 1, "y", 2]),
    ("renew nothing", scripts.renew(4500, 60, []), scripts.RENEW, [], [4500, 60]),
    ("release", scripts.release(STREAM, 3), scripts.RELEASE, [keys.meta(STREAM)], [STREAM, 3]),
    ("cancel", scripts.cancel(STREAM, b"end", 60), scripts.CANCEL, [keys.meta(STREAM)], [STREAM, b"end", 60]),
    ("reap", scripts.reap(9, b"lost", b"late", 120, 60), scripts.REAP, [], [9, b"lost", b"late", 120, 60]),
]


@pytest.mark.parametrize(
    ("made", "script", "names", "rest"), [row[1:] for row in ARGUMENTS], ids=[row[0] for row in ARGUMENTS]
)
def test_arguments_stand_in_their_order(
    made: list[Argument], script: Script, names: list[Argument], rest: list[Argument]
) -> None:
    assert parts(made) == (script.sha, names, rest)


# -- replies ----------------------------------------------------------------------------------------------------------


ID = STREAM.encode()
REPLIES: list[tuple[str, Any, Any]] = [
    ("started, no limit", scripts.start_reply([b"started", ID, -1, 0]), StartReply("started", STREAM)),
    ("started, with a limit", scripts.start_reply([b"started", ID, 4, 12_000]),
     StartReply("started", STREAM, remaining=4, reset_ms=12_000)),
    ("existing", scripts.start_reply([b"existing", ID]), StartReply("existing", STREAM)),
    ("conflict", scripts.start_reply([b"conflict", ID]), StartReply("conflict", STREAM)),
    ("overloaded", scripts.start_reply([b"overloaded", 7]), StartReply("overloaded", bound=7)),
    ("busy", scripts.start_reply([b"busy", 3]), StartReply("busy", bound=3)),
    ("limited", scripts.start_reply([b"limited", 5, 700]), StartReply("limited", bound=5, retry_ms=700)),
    ("claimed", scripts.claim_reply([[ID, 1_000, b"job", b"2", b"1", b"400", b"m", b"cancel", b"asked", b"with",
                                      b"alice"]]),
     [Claim(STREAM, 2, 1, 600, "m", "cancel", b"asked", b"with", b"job", "alice")]),
    ("claimed without a request, a clock that went back",
     scripts.claim_reply([[ID, 1_000, b"", b"1", b"0", b"1500", b"m", b"continue", None, None, None]]),
     [Claim(STREAM, 1, 0, 0, "m", "continue", b"")]),
    ("nothing to claim", scripts.claim_reply([]), []),
    ("appended", scripts.append_reply([b"ok", 9, 2, 0]), AppendReply("ok", 9, 2, False)),
    ("appended nothing new", scripts.append_reply([b"ok", 9, -1, 1]), AppendReply("ok", 9, -1, True)),
    ("a hole", scripts.append_reply([b"hole", 3, 0, 0]), AppendReply("hole", 3, 0, False)),
    ("fenced", scripts.append_reply([b"fenced", 3, 0, 1]), AppendReply("fenced", 3, 0, True)),
    ("gone", scripts.append_reply([b"gone", 0, 0, 0]), AppendReply("gone", 0, 0, False)),
    ("renewed", scripts.renew_reply([[b"a"], [], [b"b", b"c"]]),
     RenewReply(frozenset({"a"}), frozenset(), frozenset({"b", "c"}))),
    ("reaped", scripts.reap_reply([1, 2, 3]), ReapReply(1, 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("parsed", "expected"), [row[1:] for row in REPLIES], ids=[row[0] for row in REPLIES])
def test_a_reply_is_read(parsed: Any, expected: Any) -> None:
    assert parsed == expected


# -- bounds and times -------------------------------------------------------------------------------------------------


def test_a_batch_is_less_than_lua_unpacks() -> None:
    assert scripts.MAX_BATCH_ENTRIES < 7_000


def test_a_lost_worker_is_noticed_within_ten_seconds() -> None:
    """A lease that was just renewed runs out, is suspect, is judged; both by a look that comes once a second or so."""
    looks_ms = 2 * 1_200
    assert scripts.LEASE_MS + scripts.SUSPICION_MS + looks_ms < 10_000


def test_a_lease_survives_one_renewal_that_fails() -> None:
    assert scripts.LEASE_MS > 2 * scripts.RENEW_EVERY_S * 1000


def test_attempts_are_bounded() -> None:
    assert f"< {lifecycle.MAX_ATTEMPTS}" in scripts.REAP.text
    for script in (scripts.REAP, scripts.RELEASE):
        assert "has_told(" in script.text.replace("local function has_told(", "")
