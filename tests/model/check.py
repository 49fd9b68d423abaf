"""Holds what stands in Redis against the model: every key, every field, every score, every time to live."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.model.model import Model
from tests.model.state import Stream, Window
from tests.model.world import World
from tokenrelay.protocol.store import keys

SLACK_MS = 300
"""Between the moment a time to live was set and that of looking at it, the clock is read twice."""

OWNERS = ("alice", "bob")
KEYED = [(owner, key) for owner in OWNERS for key in ("k1", "k2")]
CHATS = [(owner, chat) for owner in OWNERS for chat in ("c1", "c2")]


def check(world: World, model: Model) -> None:
    """Raises AssertionError that says what is otherwise. Windows close on what was seen."""
    names = list(model.streams)
    each = [["HGETALL", keys.meta(name)] for name in names]
    each += [["XRANGE", keys.log(name), "-", "+"] for name in names]
    each += [["PTTL", keys.meta(name)] for name in names] + [["PTTL", keys.log(name)] for name in names]
    each += [["EXISTS", world.arq_job(name)] for name in names]
    replies = world.ask(*each)
    columns = [replies[at * len(names) : (at + 1) * len(names)] for at in range(5)]
    for stream, meta, log, meta_ttl, log_ttl, job in zip(model.streams.values(), *columns, strict=True):
        _meta(
            world,
            stream,
            {name.decode(): value for name, value in meta.items()} if isinstance(meta, dict) else pairs(meta),
        )
        _within(f"{stream.id}: the metadata lives", meta_ttl, world.at, stream.meta_dies)
        assert log == (
            [] if not stream.has_log else [(b"%d-0" % n, {b"e": e}) for n, e in enumerate(stream.entries, 1)]
        )
        if stream.has_log:
            _within(f"{stream.id}: the log lives", log_ttl, world.at, stream.log_dies)
        assert job == (not stream.has_ended), f"{stream.id}: arq's job"
    _queue(world, model)
    everything_of_owners(world, model)
    _rest(world, model)
    said = [
        (world.name(channel) if channel in (keys.WAKE, keys.CANCEL) else channel, what) for channel, what in model.said
    ]
    assert Counter(world.heard()) == Counter(said), "what was published"
    model.said.clear()


def _meta(world: World, stream: Stream, found: dict[str, bytes]) -> None:
    new = stream.new
    expected: dict[str, Any] = {
        "state": stream.state, "epoch": stream.epoch, "last": stream.last, "owner": new.owner, "model": new.model,
        "on_disconnect": new.on_disconnect, "created": found.get("created", b""),
    }  # fmt: skip
    stream.created = _close(f"{stream.id}: created", found.get("created"), stream.created)
    if stream.broken:
        del expected["model"]
    if not stream.has_ended:
        expected |= {"request": new.request, "active": world.names.active(new.owner)}
        expected |= {"needs": new.needs} if new.needs else {}
        expected |= {"parts": new.parts} if new.parts else {}
    else:
        expected["ended"] = found.get("ended", b"")
        stream.ended = _close(f"{stream.id}: ended", found.get("ended"), stream.ended)
    flags = {"cancel": stream.cancel, "suspect": stream.suspect, "deleted": stream.deleted}
    expected |= {name: 1 for name, is_set in flags.items() if is_set}
    optional = {"told": stream.told, "notify": stream.notify, "worker": stream.worker or None}
    expected |= {name: value for name, value in optional.items() if value is not None}
    assert found == {name: encoded(value) for name, value in expected.items()}, stream.id


def _queue(world: World, model: Model) -> None:
    waiting = model.waiting()
    sets = {keys.waiting_for(each.new.needs): each.new.needs for each in model.streams.values() if each.new.needs}
    counts = world.ask(
        *(["ZRANGE", world.name(name), 0, -1, "WITHSCORES"] for name in (keys.WAITING, keys.LEASES, keys.ENDED, *sets)),
        ["HGETALL", world.name(keys.NEEDS)],
        ["HGETALL", world.name(keys.QUEUED)],
    )
    scores = [scored(reply) for reply in counts[:-2]]
    _scores("waiting", scores[0], {each.id: each.since for each in waiting})
    for each in waiting:
        each.since = _seen(scores[0][each.id.encode()])
    running = model.in_state("running")
    leases = {name: score for name, score in scores[1].items() if name.decode() not in model.leases_of_nothing}
    _scores("leases", leases, {each.id: each.lease for each in running})
    assert len(scores[1]) - len(leases) == len(model.leases_of_nothing), "leases of nothing"
    due = {each.id: each.due for each in model.streams.values() if each.due is not None}
    _scores("ended", scores[2], due)
    for name in due:
        model.streams[name].due = _seen(scores[2][name.encode()])
    for (name, needs), found in zip(sets.items(), scores[3:], strict=True):
        _scores(name, found, {each.id: each.since for each in waiting if each.new.needs == needs})
    known = {keys.waiting_for(each.new.needs).rpartition(":")[2]: each.new.needs for each in waiting if each.new.needs}
    assert texts(counts[-2]) == known, "needs"
    expected: Counter[str] = Counter()
    for each in waiting:
        who = keys.digest(each.new.owner)
        expected.update({"bytes": each.size, f"{who}:n": 1, f"{who}:bytes": each.size})
    assert texts(counts[-1]) == {name: str(number) for name, number in expected.items()}, "what waits, in numbers"


def everything_of_owners(world: World, model: Model) -> None:
    names = world.names
    replies = world.ask(
        *(["ZRANGE", name(owner), 0, -1] for owner in OWNERS for name in (names.active, names.owner)),
        *(["HMGET", names.idempotency(*key), "id", "fingerprint"] for key in KEYED),
        *(["GET", names.chat(*key)] for key in CHATS),
    )
    for at, owner in enumerate(OWNERS):
        assert {item.decode() for item in replies[2 * at]} == model.active.get(owner, set()), f"{owner}: under way"
        assert {item.decode() for item in replies[2 * at + 1]} == model.listed.get(owner, set()), f"{owner}: streams"
    rest = replies[2 * len(OWNERS) :]
    known = [tuple(found and found.decode() for found in each) for each in rest[: len(KEYED)]]
    assert known == [model.idem.get(key, (None, None)) for key in KEYED], "Idempotency-Keys"
    chats = [found and found.decode() for found in rest[len(KEYED) :]]
    assert chats == [model.chats.get(key) for key in CHATS], "chats"


def _rest(world: World, model: Model) -> None:
    written = [(name, n) for name, parts in model.parts.items() if parts.is_written for n in range(parts.count)]
    replies = world.ask(
        ["ZRANGE", world.name(keys.PARTS), 0, -1, "WITHSCORES"],
        ["HGETALL", world.name(keys.PARTS_BYTES)],
        ["HGETALL", world.names.for_all(keys.HEALTH)],
        ["PTTL", world.names.for_all(keys.HEALTH)],
        ["GET", world.name(keys.ENDED_DROPPED)],
        ["KEYS", world.all_parts],
        *(["GET", world.names.for_all(keys.trial(each))] for each in ("a", "b")),
    )
    _scores("parts", scored(replies[0]), {parts.held: parts.until for parts in model.parts.values()})
    sizes: Counter[str] = Counter()
    for parts in model.parts.values():
        sizes.update({"all": parts.size, keys.digest(parts.owner): parts.size})
    assert texts(replies[1]) == {name: str(size) for name, size in sizes.items()}, "bytes of parts"
    assert {name.decode(): value for name, value in pairs(replies[2]).items()} == model.health
    if model.health:
        _within("health lives", replies[3], world.at, model.health_dies)
    assert int(replies[4] or 0) == model.dropped
    assert {name.decode() for name in replies[5]} == {keys.part(name, n) for name, n in written}, "bytes beside"
    trials = [model.trials.get(each) for each in ("a", "b")]
    assert [found and found.decode() for found in replies[6:]] == trials, "trials"


def _scores(what: str, found: dict[bytes, float], expected: dict[str, Window]) -> None:
    assert {name.decode() for name in found} == set(expected), what
    for name, window in expected.items():
        score = found[name.encode()]
        assert window[0] <= score <= window[1], f"{what}: {name} at {score}, expected within {window}"


def _seen(score: float) -> Window:
    return int(score), int(score)


def _close(what: str, found: bytes | None, window: Window) -> Window:
    assert found is not None, f"{what}: nothing"
    assert window[0] <= int(found) <= window[1], f"{what}: {found!r}, expected within {window}"
    return int(found), int(found)


def within(what: str, score: float, window: Window) -> Window:
    """The window closed on what was seen."""
    assert window[0] <= score <= window[1], f"{what} at {score}, expected within {window}"
    return _seen(score)


def _within(what: str, ttl: int, at: Window, window: Window) -> None:
    assert at[0] + ttl <= window[1] + SLACK_MS, f"{what} {ttl} ms, expected to end within {window} at {at}"
    assert at[1] + ttl >= window[0] - SLACK_MS, f"{what} {ttl} ms, expected to end within {window} at {at}"


def pairs(reply: Any) -> dict[Any, Any]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def scored(reply: Any) -> dict[bytes, float]:
    return {name: float(score) for name, score in pairs(reply).items()}


def texts(reply: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in pairs(reply).items()}


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
