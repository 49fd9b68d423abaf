"""RESERVE, RETURN and LEAVE: in a cluster, what a start needs of its owner's slot; the stream itself is in another.

RESERVE (id, limits, Idempotency-Key, chat) ─▶ START_RESERVED ─▶ … ─▶ the end ─▶ LEAVE: the owner has room again
  │                                              └─ refused: RETURN
  ├─ `existing`, and no stream under that id yet: whoever asks may start it (the edge that was to died)
  └─ `busy`: those named are looked at, then RESERVE again, told which have ended
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import TOMBSTONE_MS, Argument, script
from tokenrelay.protocol.store.scripts.starting import ENLIST, LOOKED_AT, RATE, Limits, NewStream

YOUNG_MS: Final = 5_000
"""A reservation counts for this long, stream or not: its edge may be about to start it."""

_LISTED: Final = 8
"""The arguments from here on are streams of the owner: with `-` before it one that has ended, with `+` one that has not
and is to stand last."""

RESERVE: Final = script(
    "reserve",
    f"""
local active, owner, rate, idem, chat = KEYS[1], KEYS[2], KEYS[3], '', ''
local id, fingerprint, retention = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most_active, per_minute, replaces = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
if string.find(ARGV[6], 'i') then idem = KEYS[4] end
if string.find(ARGV[6], 'c') then chat = KEYS[5] end
local now = now_ms()
if idem ~= '' then
  local known = redis.call('HMGET', idem, 'id', 'fingerprint', 'at')
  if known[1] and known[1] ~= id and known[1] ~= replaces then
    local outcome = known[2] == fingerprint and 'existing' or 'conflict'
    return {{outcome, known[1], now - (known[3] or now)}}
  end
end
-- The edge asks again when the reply was lost on the way.
if redis.call('ZSCORE', active, id) then return {{'reserved', -1, 0}} end
for i = {_LISTED}, #ARGV do
  local known = string.sub(ARGV[i], 2)
  if string.sub(ARGV[i], 1, 1) == '-' then
    redis.call('ZREM', active, known)
  else
    redis.call('ZADD', active, 'XX', now, known)
  end
end
redis.call('ZREMRANGEBYSCORE', active, '-inf', now - retention - {TOMBSTONE_MS})
if most_active > 0 and redis.call('ZCARD', active) >= most_active then
  local old = redis.call('ZRANGEBYSCORE', active, '-inf', now - {YOUNG_MS}, 'LIMIT', 0, {LOOKED_AT})
  return {{'busy', most_active, old}}
end
{RATE}
{ENLIST}
if idem ~= '' then redis.call('HSET', idem, 'at', now) end
return {{'reserved', remaining, reset}}
""",
)

RETURN: Final = script(
    "return",
    """
local active, owner, rate, idem, chat = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, per_minute = ARGV[1], tonumber(ARGV[2])
if redis.call('ZREM', active, id) == 0 then return 0 end
redis.call('ZREM', owner, id)
local due = tonumber(redis.call('GET', rate) or 0)
local left = due - now_ms() - 60000 / math.max(per_minute, 1)
if per_minute > 0 and left >= 1 then
  redis.call('SET', rate, string.format('%.3f', due - 60000 / per_minute), 'PX', math.ceil(left))
elseif per_minute > 0 then
  redis.call('DEL', rate)
end
if string.find(ARGV[3], 'i') and redis.call('HGET', idem, 'id') == id then redis.call('DEL', idem) end
if string.find(ARGV[3], 'c') and redis.call('GET', chat) == id then redis.call('DEL', chat) end
return 1
""",
)


def reserve(
    new: NewStream,
    limits: Limits,
    retention_ms: int,
    *,
    replaces: str = "",
    ended: Sequence[str] = (),
    alive: Sequence[str] = (),
) -> list[Argument]:
    """Arguments of RESERVE. `replaces`: a stream that the Idempotency-Key was reserved for and that never came to be;
    `ended`, `alive`: what became of those that an answer `busy` named."""
    listed = [*(f"-{each}" for each in ended), *(f"+{each}" for each in alive)]
    args: list[Argument] = [new.stream_id, new.fingerprint, retention_ms, limits.max_active, limits.per_minute]
    return RESERVE.arguments(_names(new), [*args, _given(new), replaces, *listed])


def give_back(new: NewStream, limits: Limits) -> list[Argument]:
    """Arguments of RETURN: nothing was started for what was reserved."""
    return RETURN.arguments(_names(new), [new.stream_id, limits.per_minute, _given(new)])


def _names(new: NewStream) -> list[str]:
    """Names of one slot; one that is not needed is that of nothing."""
    names, owner = keys.CLUSTER, new.owner
    nothing = keys.never(owner_tag(owner))
    idem = nothing if new.idempotency_key is None else names.idempotency(owner, new.idempotency_key)
    chat = nothing if new.chat_id is None else names.chat(owner, new.chat_id)
    return [names.active(owner), names.owner(owner), names.rate(owner), idem, chat]


def owner_tag(owner: str) -> str:
    """What names the slot of an owner."""
    return f"o:{keys.digest(owner)}"


def _given(new: NewStream) -> str:
    return ("i" if new.idempotency_key is not None else "") + ("c" if new.chat_id is not None else "")


class ReserveReply(msgspec.Struct, frozen=True):
    """`reserved`: the owner has room, and it is taken. `existing`, `conflict`: the Idempotency-Key was reserved for
    `stream_id`, `age_ms` ago, by the same or for another body. `busy`: it has its `bound` of streams, of which
    `candidates` may have ended. `limited` as START says it."""

    outcome: Literal["reserved", "existing", "conflict", "busy", "limited"]
    stream_id: str = ""
    age_ms: int = 0
    bound: int = 0
    candidates: tuple[str, ...] = ()
    retry_ms: int = 0
    remaining: int = -1
    reset_ms: int = 0


def reserve_reply(reply: Any) -> ReserveReply:
    outcome = reply[0].decode()
    match outcome:
        case "reserved":
            return ReserveReply(outcome, remaining=int(reply[1]), reset_ms=int(reply[2]))
        case "busy":
            return ReserveReply(outcome, bound=int(reply[1]), candidates=tuple(each.decode() for each in reply[2]))
        case "limited":
            return ReserveReply(outcome, bound=int(reply[1]), retry_ms=int(reply[2]))
        case _:
            return ReserveReply(outcome, stream_id=reply[1].decode(), age_ms=max(0, int(reply[2])))
