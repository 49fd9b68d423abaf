"""The Lua scripts as data: text, arguments, replies. Whoever holds a Redis connection runs them; this module holds
none.

Each script is one atomic step of `lifecycle.TRANSITIONS`. All judge time by Redis's own clock, so that hosts may
disagree about theirs. They build key names from ids, which wants one Redis (a primary, not a cluster); see `keys`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from tokenrelay.protocol.lifecycle import MAX_ATTEMPTS, TOLD_NOTHING
from tokenrelay.protocol.store import keys

Argument: TypeAlias = bytes | str | int

GRAVE_MS: Final = 24 * 3600 * 1000
"""How long the metadata outlives the log, so that an expired stream answers 410 and not 404. Also why the counter
(`last`) can never die before the log: XADD with an explicit id would then fail for ever."""

LIVE_MS: Final = 30_000
"""What a log that is being written lives on after its last renewal, however short its retention: longer than it takes
until a dead worker's generation has been ended."""

LEASE_MS: Final = 4_500
RENEW_EVERY_S: Final = 1.5
SUSPICION_MS: Final = 2_000
"""A lease that ran out is only suspect at first, and judged this much later: after a pause of Redis itself every
lease has
run out, and the workers get the time to say that they live. Lease, suspicion and two looks a second apart are under
10 s."""

MAX_BATCH_ENTRIES: Final = 500
MAX_BATCH_BYTES: Final = 256 * 1024
"""One append. Lua's `unpack` takes about 8,000 values, and Redis cuts a subscriber that lags by 8 MiB."""


class Script(msgspec.Struct, frozen=True):
    """A Lua text and its SHA-1 as EVALSHA wants it (https://redis.io/docs/latest/commands/evalsha/)."""

    name: str
    text: str
    sha: str

    def arguments(self, key_names: Sequence[str], args: Iterable[Argument]) -> list[Argument]:
        """What follows EVALSHA (or, with the text in place of the sha, EVAL)."""
        return [self.sha, len(key_names), *key_names, *args]


_PRELUDE: Final = f"""
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function name(id, part) return '{keys.STREAM}{{' .. id .. '}}:' .. part end
local function keep_log(id, retention) redis.call('PEXPIRE', name(id, 'log'), math.max(retention, {LIVE_MS})) end
-- Everything that a generation leaves behind in the queue.
local function leave_queue(id)
  redis.call('ZREM', '{keys.WAITING}', id)
  redis.call('ZREM', '{keys.LEASES}', id)
  redis.call('DEL', '{keys.ARQ_JOB}' .. id)
end
-- The end of a generation: state, no prompt any more, retention begins.
local function settle(id, state, retention)
  local meta = name(id, 'meta')
  redis.call('HSET', meta, 'state', state, 'ended', now_ms())
  local active = redis.call('HGET', meta, 'active')
  if active then redis.call('ZREM', active, id) end
  redis.call('HDEL', meta, 'request', 'active', 'context')
  -- Written anew: a hash that once had a long value keeps the large form, for the day it lives on.
  local left = redis.call('HGETALL', meta)
  redis.call('DEL', meta)
  redis.call('HSET', meta, unpack(left))
  redis.call('PEXPIRE', meta, retention + {GRAVE_MS})
  redis.call('PEXPIRE', name(id, 'log'), retention)
  leave_queue(id)
end
-- An end written by somebody who is not the generation's worker: the next epoch, so that the worker is fenced.
local function finish(id, entry, state, retention)
  local meta = name(id, 'meta')
  redis.call('HINCRBY', meta, 'epoch', 1)
  local last = redis.call('HINCRBY', meta, 'last', 1)
  redis.call('XADD', name(id, 'log'), last .. '-0', 'e', entry)
  redis.call('PUBLISH', name(id, 'live'), last .. '\\n' .. entry)
  settle(id, state, retention)
end
-- Back to those who wait, to be taken by another worker with the next epoch; until then the state fences the last one.
local function requeue(id)
  redis.call('HSET', name(id, 'meta'), 'state', 'queued')
  redis.call('HDEL', name(id, 'meta'), 'suspect')
  redis.call('ZREM', '{keys.LEASES}', id)
  redis.call('ZADD', '{keys.WAITING}', now_ms(), id)
  redis.call('PUBLISH', '{keys.WAKE}', '')
end
"""


def _script(name: str, body: str) -> Script:
    text = _PRELUDE + body
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324  Redis names scripts by SHA-1


# -- start: an edge makes a generation --------------------------------------------------------------------------------

START: Final = _script(
    "start",
    f"""
local meta, owner, active, rate, idem = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, fingerprint, max_waiting, retention = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local most_active, per_minute = tonumber(ARGV[7]), tonumber(ARGV[8])
-- The edge asks again when the reply was lost on the way: what it made must not be made anew under a running worker.
if redis.call('EXISTS', meta) == 1 then return {{'started', id, -1, 0}} end
if idem ~= '' then
  local known = redis.call('HMGET', idem, 'id', 'fingerprint')
  if known[1] and redis.call('EXISTS', name(known[1], 'meta')) == 1 then
    if known[2] == fingerprint then return {{'existing', known[1]}} end
    return {{'conflict', known[1]}}
  end
end
local waiting = redis.call('ZCARD', '{keys.WAITING}')
if waiting >= max_waiting then return {{'overloaded', waiting}} end
local now = now_ms()
if most_active > 0 and redis.call('ZCARD', active) >= most_active then
  -- Before refusing: those that Redis lost or that expired without an end do not count.
  for _, known in ipairs(redis.call('ZRANGE', active, 0, -1)) do
    local state = redis.call('HGET', name(known, 'meta'), 'state')
    if state ~= 'queued' and state ~= 'running' then redis.call('ZREM', active, known) end
  end
  if redis.call('ZCARD', active) >= most_active then return {{'busy', most_active}} end
end
-- The generic cell rate algorithm (ITU-T I.371): `due` is when the bucket would be full again; a minute's worth may
-- come at once.
local remaining, reset = -1, 0
if per_minute > 0 then
  local step = 60000 / per_minute
  local due = math.max(tonumber(redis.call('GET', rate) or now), now) + step
  if due - now > 60000 + 0.001 then return {{'limited', per_minute, math.ceil(due - now - 60000)}} end
  redis.call('SET', rate, string.format('%.3f', due), 'PX', math.ceil(due - now))
  remaining, reset = math.floor((60000 - (due - now)) / step + 0.001), math.ceil(due - now)
end
redis.call('ZADD', active, now, id)
redis.call('PEXPIRE', active, retention + {GRAVE_MS})
redis.call('HSET', meta, 'state', 'queued', 'epoch', 0, 'last', 0, 'created', now, 'active', active, unpack(ARGV, 9))
redis.call('PEXPIRE', meta, retention + {GRAVE_MS})
redis.call('ZADD', owner, now, id)
redis.call('ZREMRANGEBYRANK', owner, 0, -1001)
redis.call('PEXPIRE', owner, retention + {GRAVE_MS})
if idem ~= '' then
  redis.call('HSET', idem, 'id', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', idem, retention + {GRAVE_MS})
end
redis.call('SET', '{keys.ARQ_JOB}' .. id, ARGV[5], 'PX', ARGV[6])
redis.call('ZADD', '{keys.WAITING}', now, id)
redis.call('PUBLISH', '{keys.WAKE}', '')
return {{'started', id, remaining, reset}}
""",
)


class NewStream(msgspec.Struct, frozen=True):
    """What an edge writes for a new generation. `request` is msgpack; it leaves Redis when the generation ends."""

    stream_id: str
    owner: str
    model: str
    request: bytes
    on_disconnect: str
    idempotency_key: str | None
    fingerprint: str
    context: bytes = b""  # see `protocol.context`; it has no text and stays


class Limits(msgspec.Struct, frozen=True):
    """What may be: `max_waiting` generations of all keys; of one key `max_active` streams that have not ended and
    `per_minute` starts, 0 for no limit of that kind."""

    max_waiting: int
    max_active: int = 0
    per_minute: int = 0


def start(new: NewStream, limits: Limits, *, job: bytes, job_ttl_ms: int, retention_ms: int) -> list[Argument]:
    """Arguments of START. `job` is arq's own serialised job."""
    idem = keys.idempotency(new.owner, new.idempotency_key) if new.idempotency_key is not None else ""
    owner = new.owner
    names = [keys.meta(new.stream_id), keys.owner(owner), keys.active(owner), keys.rate(owner), idem]
    fields: list[Argument] = ["owner", owner, "model", new.model, "request", new.request]
    fields += ["on_disconnect", new.on_disconnect]
    if new.context:
        fields += ["context", new.context]
    bounds = [limits.max_active, limits.per_minute]
    first: list[Argument] = [new.stream_id, new.fingerprint, limits.max_waiting, retention_ms, job, job_ttl_ms]
    return START.arguments(names, [*first, *bounds, *fields])


class StartReply(msgspec.Struct, frozen=True):
    """What became of it.

    `existing`: the Idempotency-Key was used for this stream; `conflict`: for another body; `overloaded`: `bound`
    generations wait; `busy`: the key has its `bound` of streams under way; `limited`: it has started its `bound` this
    minute, the next one may come in `retry_ms`. `remaining` starts of the minute (-1: no limit), whole in `reset_ms`.
    """

    outcome: Literal["started", "existing", "conflict", "overloaded", "busy", "limited"]
    stream_id: str = ""
    bound: int = 0
    retry_ms: int = 0
    remaining: int = -1
    reset_ms: int = 0


def start_reply(reply: Any) -> StartReply:
    outcome = reply[0].decode()
    match outcome:
        case "started":
            return StartReply(outcome, reply[1].decode(), remaining=int(reply[2]), reset_ms=int(reply[3]))
        case "overloaded" | "busy":
            return StartReply(outcome, bound=int(reply[1]))
        case "limited":
            return StartReply(outcome, bound=int(reply[1]), retry_ms=int(reply[2]))
        case _:
            return StartReply(outcome, reply[1].decode())


# -- claim: a worker takes generations --------------------------------------------------------------------------------

_CLAIM_FIELDS: Final = ("epoch", "last", "created", "model", "on_disconnect", "request", "context")

CLAIM: Final = _script(
    "claim",
    f"""
local now, lease, claims = now_ms(), tonumber(ARGV[2]), {{}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.WAITING}', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local meta = name(id, 'meta')
  if redis.call('HGET', meta, 'state') == 'queued' then
    redis.call('ZREM', '{keys.WAITING}', id)
    redis.call('HINCRBY', meta, 'epoch', 1)
    redis.call('HSET', meta, 'state', 'running', 'worker', ARGV[3])
    redis.call('ZADD', '{keys.LEASES}', now + lease, id)
    local job = redis.call('GET', '{keys.ARQ_JOB}' .. id) or ''
    claims[#claims + 1] = {{id, now, job, unpack(redis.call('HMGET', meta, {", ".join(map(repr, _CLAIM_FIELDS))}))}}
  else
    leave_queue(id)
  end
end
return claims
""",
)


def claim(most: int, lease_ms: int, worker_id: str) -> list[Argument]:
    return CLAIM.arguments([], [most, lease_ms, worker_id])


class Claim(msgspec.Struct, frozen=True):
    """A generation that is ours until the lease ends. `age_ms` is how long ago it was asked for, by Redis's clock;
    `job` is arq's own, serialised."""

    stream_id: str
    epoch: int
    last_id: int
    age_ms: int
    model: str
    on_disconnect: str
    request: bytes
    context: bytes = b""
    job: bytes = b""


def claim_reply(reply: Any) -> list[Claim]:
    return [
        Claim(
            stream_id=row[0].decode(),
            epoch=int(row[3]),
            last_id=int(row[4]),
            age_ms=max(0, int(row[1]) - int(row[5])),
            model=row[6].decode(),
            on_disconnect=row[7].decode(),
            request=row[8] or b"",
            context=row[9] or b"",
            job=row[2],
        )
        for row in reply
    ]


# -- append: a worker writes -------------------------------------------------------------------------------------------

APPEND: Final = _script(
    "append",
    """
local log, meta = KEYS[1], KEYS[2]
local id, epoch, first, state, retention = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local m = redis.call('HMGET', meta, 'epoch', 'last', 'state', 'cancel')
if not m[1] then return {'gone', 0, 0, 0} end
local last, cancel = tonumber(m[2]), m[4] and 1 or 0
local final = first + #ARGV - 6
if m[1] ~= epoch or (m[3] ~= 'running' and final > last) then return {'fenced', last, 0, cancel} end
if first > last + 1 then return {'hole', last, 0, cancel} end
if final <= last then return {'ok', last, -1, cancel} end
local new = last + 1
for n = new, final do redis.call('XADD', log, n .. '-0', 'e', ARGV[6 + n - first]) end
redis.call('HSET', meta, 'last', final)
local listeners = redis.call('PUBLISH', name(id, 'live'), new .. '\\n' .. table.concat(ARGV, '', 6 + new - first))
if state ~= '' then settle(id, state, retention) elseif new == 1 then keep_log(id, retention) end
return {'ok', final, listeners, cancel}
""",
)


def append(
    stream_id: str, epoch: int, first_id: int, entries: Sequence[bytes], *, end_state: str, retention_ms: int
) -> list[Argument]:
    """Arguments of APPEND: entries `first_id`… of one generation; `end_state` is "" unless the last one is its end."""
    return [
        APPEND.sha, 2, keys.log(stream_id), keys.meta(stream_id), stream_id, epoch, first_id, end_state, retention_ms,
        *entries,
    ]  # fmt: skip


class AppendReply(msgspec.Struct, frozen=True):
    """`ok`: all of it is in the log. `hole`: send again from `last_id` + 1. `fenced`: somebody else may write, stop.
    `gone`: the metadata is not there (Redis lost it). `listeners`: how many edges hear it; -1 when nothing was new.
    """

    outcome: Literal["ok", "hole", "fenced", "gone"]
    last_id: int
    listeners: int
    cancel_wanted: bool


def append_reply(reply: Any) -> AppendReply:
    return AppendReply(reply[0].decode(), int(reply[1]), int(reply[2]), bool(reply[3]))


# -- renew: a worker is alive ------------------------------------------------------------------------------------------

RENEW: Final = _script(
    "renew",
    f"""
local lease, retention, lost, cancelled, heard = now_ms() + tonumber(ARGV[1]), tonumber(ARGV[2]), {{}}, {{}}, {{}}
for i = 3, #ARGV, 2 do
  local id, meta = ARGV[i], name(ARGV[i], 'meta')
  local m = redis.call('HMGET', meta, 'epoch', 'state', 'cancel', 'suspect')
  if m[1] ~= ARGV[i + 1] or m[2] ~= 'running' then
    lost[#lost + 1] = id
  else
    if m[4] then redis.call('HDEL', meta, 'suspect') end
    redis.call('ZADD', '{keys.LEASES}', lease, id)
    redis.call('PEXPIRE', meta, retention + {GRAVE_MS})
    keep_log(id, retention)
    if m[3] then cancelled[#cancelled + 1] = id end
    if redis.call('PUBSUB', 'NUMSUB', name(id, 'live'))[2] > 0 then heard[#heard + 1] = id end
  end
end
return {{lost, cancelled, heard}}
""",
)


def renew(lease_ms: int, retention_ms: int, held: Iterable[tuple[str, int]]) -> list[Argument]:
    """Arguments of RENEW; `held` are (stream id, epoch). The caller bounds it to `MAX_BATCH_ENTRIES`."""
    return RENEW.arguments([], [lease_ms, retention_ms, *(item for pair in held for item in pair)])


class RenewReply(msgspec.Struct, frozen=True):
    """Stream ids: no longer ours, to be stopped, listened to by at least one edge."""

    lost: frozenset[str]
    cancelled: frozenset[str]
    heard: frozenset[str]


def renew_reply(reply: Any) -> RenewReply:
    return RenewReply(*(frozenset(item.decode() for item in part) for part in reply))


# -- release: a worker that leaves hands back what it has told nobody of ----------------------------------------------

RELEASE: Final = _script(
    "release",
    f"""
local m = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'last', 'cancel')
if m[1] ~= ARGV[2] or m[2] ~= 'running' or tonumber(m[3]) > {TOLD_NOTHING} or m[4] then return 0 end
requeue(ARGV[1])
return 1
""",
)


def release(stream_id: str, epoch: int) -> list[Argument]:
    """Arguments of RELEASE; its reply is 1 when the generation waits again, 0 when it must be ended instead."""
    return RELEASE.arguments([keys.meta(stream_id)], [stream_id, epoch])


# -- cancel: anybody the stream belongs to stops it --------------------------------------------------------------------

CANCEL: Final = _script(
    "cancel",
    f"""
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return '' end
if state == 'queued' then
  finish(ARGV[1], ARGV[2], 'cancelled', tonumber(ARGV[3]))
  return 'cancelled'
end
if state ~= 'running' then return state end
redis.call('HSET', KEYS[1], 'cancel', 1)
redis.call('PUBLISH', '{keys.CANCEL}', ARGV[1])
return 'cancelling'
""",
)


def cancel(stream_id: str, end: bytes, retention_ms: int) -> list[Argument]:
    """Arguments of CANCEL; `end` is the entry to write if nobody has taken it yet. Reply: the public state, b"" if
    gone."""
    return CANCEL.arguments([keys.meta(stream_id)], [stream_id, end, retention_ms])


# -- reap: whoever comes by ends what is overdue -----------------------------------------------------------------------

REAP: Final = _script(
    "reap",
    f"""
local now, most, lost, retention = now_ms(), ARGV[1], 0, tonumber(ARGV[5])
local again = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.LEASES}', '-inf', now, 'LIMIT', 0, most)) do
  local m = redis.call('HMGET', name(id, 'meta'), 'state', 'epoch', 'last', 'cancel', 'suspect')
  if m[1] ~= 'running' then
    leave_queue(id)
  elseif not m[5] then
    redis.call('HSET', name(id, 'meta'), 'suspect', 1)
    redis.call('ZADD', '{keys.LEASES}', now + {SUSPICION_MS}, id)
  elseif tonumber(m[3]) <= {TOLD_NOTHING} and tonumber(m[2]) < {MAX_ATTEMPTS} and not m[4] then
    requeue(id)
    again = again + 1
  else
    finish(id, ARGV[2], 'failed', retention)
    lost = lost + 1
  end
end
local late = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.WAITING}', '-inf', now - ARGV[4], 'LIMIT', 0, most)) do
  if redis.call('HGET', name(id, 'meta'), 'state') == 'queued' then
    finish(id, ARGV[3], 'failed', retention)
    late = late + 1
  else
    leave_queue(id)
  end
end
return {{lost, again, late}}
""",
)


def reap(most: int, lost: bytes, late: bytes, max_wait_ms: int, retention_ms: int) -> list[Argument]:
    """Arguments of REAP; `lost` and `late` are the entries that end a generation whose worker is gone, or that nobody
    took within `max_wait_ms`."""
    return REAP.arguments([], [most, lost, late, max_wait_ms, retention_ms])


class ReapReply(msgspec.Struct, frozen=True):
    """How many were ended as lost, are waiting again, were ended as late."""

    lost: int
    again: int
    late: int


def reap_reply(reply: Any) -> ReapReply:
    return ReapReply(*map(int, reply))


# -- share: a worker adds what it saw of the models --------------------------------------------------------------------

SHARE: Final = _script(
    "share",
    f"""
local now, stored = now_ms(), {{}}
for i = 3, #ARGV, 4 do
  local model, old, new, trial = unpack(ARGV, i, i + 3)
  local is_ours = new == ''
  if not is_ours and (redis.call('HGET', '{keys.HEALTH}', model) or '') == old then
    redis.call('HSET', '{keys.HEALTH}', model, new)
    redis.call('PEXPIREAT', '{keys.HEALTH}', now + ARGV[2])
    stored[#stored + 1] = model
    is_ours = true
  end
  if is_ours and trial ~= '' and redis.call('GET', trial) == ARGV[1] then redis.call('DEL', trial) end
end
return stored
""",
)


class Share(msgspec.Struct, frozen=True):
    """One model's record: `new` in place of `old` (b"": there was none), if it is still that. `new` b"": nothing is
    written. `ends_trial`: the caller's trial of it is over, once this is stored."""

    model: str
    old: bytes
    new: bytes
    ends_trial: bool = False


def share(worker_id: str, kept_ms: int, shares: Iterable[Share]) -> list[Argument]:
    """Arguments of SHARE."""
    rows = ((item.model, item.old, item.new, keys.trial(item.model) if item.ends_trial else "") for item in shares)
    return SHARE.arguments([], [worker_id, kept_ms, *(field for row in rows for field in row)])


def share_reply(reply: Any) -> frozenset[str]:
    """The models whose record was stored; of the others somebody else has written meanwhile."""
    return frozenset(item.decode() for item in reply)


ALL: Final = (START, CLAIM, APPEND, RENEW, RELEASE, CANCEL, REAP, SHARE)
