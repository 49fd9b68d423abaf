"""CLAIM: a worker takes waiting generations."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

_CLAIM_FIELDS: Final = ("epoch", "last", "created", "model", "on_disconnect", "request", "context", "owner")

CLAIM: Final = script(
    "claim",
    f"""
local now, lease, claims = now_ms(), tonumber(ARGV[2]), {{}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', '{keys.WAITING}', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local meta = name(id, 'meta')
  local m = fields(id, 'state', {", ".join(map(repr, _CLAIM_FIELDS))})
  if not m or m[1] ~= 'queued' then
    leave_queue(id)
  elseif not (is_whole(m[2]) and is_whole(m[3]) and is_whole(m[4]) and m[5] and m[6] and m[7]) then
    finish(id, ARGV[4], 'failed', tonumber(ARGV[5]))
  else
    leave_waiting(id)
    m[2] = redis.call('HINCRBY', meta, 'epoch', 1)
    redis.call('HSET', meta, 'state', 'running', 'worker', ARGV[3], 'told', 0)
    redis.call('ZADD', '{keys.LEASES}', now + lease, id)
    local job = redis.pcall('GET', '{keys.ARQ_JOB}' .. id)
    claims[#claims + 1] = {{id, now, job and not job.err and job or '', unpack(m, 2, {len(_CLAIM_FIELDS) + 1})}}
  end
end
return claims
""",
)


def claim(most: int, lease_ms: int, worker_id: str, unreadable: bytes, retention_ms: int) -> list[Argument]:
    """Arguments of CLAIM; `unreadable` is the entry that ends a generation whose metadata lacks what a worker needs."""
    return CLAIM.arguments([], [most, lease_ms, worker_id, unreadable, retention_ms])


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
    owner: str = ""


def claim_reply(reply: Any) -> list[Claim]:
    return [
        Claim(
            stream_id=row[0].decode("utf-8", "replace"),
            epoch=int(row[3]),
            last_id=int(row[4]),
            age_ms=max(0, int(row[1]) - int(row[5])),
            model=row[6].decode("utf-8", "replace"),
            on_disconnect=row[7].decode("utf-8", "replace"),
            request=row[8] or b"",
            context=row[9] or b"",
            job=row[2],
            owner=(row[10] or b"").decode("utf-8", "replace"),
        )
        for row in reply
    ]
