"""CLAIM: a worker takes waiting generations, those that it can answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

_CLAIM_FIELDS: Final = ("epoch", "last", "created", "model", "on_disconnect", "request", "context", "owner")
_PAGE: Final = 500
_FIRST_MODEL: Final = 6
"""The arguments from here on are the ids of the rows that the worker can answer."""

CLAIM: Final = script(
    "claim",
    f"""
local now, lease, claims = now_ms(), tonumber(ARGV[2]), {{}}
local can = {{}}
for i = {_FIRST_MODEL}, #ARGV do can[ARGV[i]] = true end
-- What cannot be read is anybody's: whoever takes it says so.
local function answers(needs)
  local is_read, is_ours = pcall(function()
    for _, model in pairs(cjson.decode(needs)) do
      if can[model] then return true end
    end
    return false
  end)
  return not is_read or is_ours
end
-- The oldest of each set that we can answer, as score and id, oldest first. One that has left those that wait stands
-- in its set where a worker of an earlier version took it.
local function oldest(most)
  local found, filed = {{}}, 0
  local needs = redis.call('HGETALL', '{keys.NEEDS}')
  for i = 1, #needs, 2 do
    local set = '{keys.WAITING}:' .. needs[i]
    local size = redis.call('ZCARD', set)
    filed = filed + size
    if size < 1 then
      redis.call('HDEL', '{keys.NEEDS}', needs[i])
    elseif answers(needs[i + 1]) then
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, most)) do
        local score = redis.call('ZSCORE', '{keys.WAITING}', id)
        if score then found[#found + 1] = {{tonumber(score), id}} else redis.call('ZREM', set, id) end
      end
    end
  end
  -- More wait than stand in sets: starts of an earlier version, or a set was lost.
  local from, strays, is_more = 0, 0, filed < redis.call('ZCARD', '{keys.WAITING}')
  while is_more and strays < most do
    local page = redis.call('ZRANGEBYSCORE', '{keys.WAITING}', '-inf', now, 'WITHSCORES', 'LIMIT', from, {_PAGE})
    for i = 1, #page, 2 do
      local id, score = page[i], tonumber(page[i + 1])
      local m = fields(id, 'needs')
      if m and m[1] then
        stand_in_set(id, score, m[1])
      elseif strays < most then
        found[#found + 1] = {{score, id}}
        strays = strays + 1
      end
    end
    from, is_more = from + {_PAGE}, #page == 2 * {_PAGE}
  end
  table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  return found
end
for n, row in ipairs(oldest(tonumber(ARGV[1]))) do
  if n > tonumber(ARGV[1]) then break end
  local id = row[2]
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
    local job = redis.pcall('GET', arq_job(id))
    claims[#claims + 1] = {{id, now, job and not job.err and job or '', unpack(m, 2, {len(_CLAIM_FIELDS) + 1})}}
  end
end
return claims
""",
)


def needs(models: Iterable[str]) -> str:
    """What a generation needs of its worker: one of these rows, by their ids. The same rows are the same text."""
    return msgspec.json.encode(sorted(set(models))).decode()


def claim(
    most: int, lease_ms: int, worker_id: str, unreadable: bytes, retention_ms: int, models: Iterable[str] = ()
) -> list[Argument]:
    """Arguments of CLAIM; `unreadable` is the entry that ends a generation whose metadata lacks what a worker needs,
    `models` the ids of the rows that the worker can answer."""
    return CLAIM.arguments([], [most, lease_ms, worker_id, unreadable, retention_ms, *models])


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
