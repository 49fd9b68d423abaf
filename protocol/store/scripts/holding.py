"""HOLD and DROP: room for the parts of a request, before and unless a generation is made of it.

HOLD (room is counted) ─▶ the edge writes the bytes, 60 s to live ─▶ START (they live as long as the metadata)
  └─ a bound is reached: nothing was counted                          └─ refused: DROP
"""

from __future__ import annotations

from typing import Any, Final

from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts.script import Argument, script

HOLD_MS: Final = 60_000
"""What parts live that no generation has been made of; after that their room is free again."""

HOLD: Final = script(
    "hold",
    f"""
local held, most, most_of_owner = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('ZSCORE', '{keys.PARTS}', held) then return 1 end
drop_overdue(100)
local bytes, _, owner = parts_of(held)
for whose, bound in pairs({{all = most, [owner] = most_of_owner}}) do
  if tonumber(redis.call('HGET', '{keys.PARTS_BYTES}', whose) or 0) + bytes > bound then return 0 end
end
redis.call('ZADD', '{keys.PARTS}', now_ms() + {HOLD_MS}, held)
redis.call('HINCRBY', '{keys.PARTS_BYTES}', 'all', bytes)
redis.call('HINCRBY', '{keys.PARTS_BYTES}', owner, bytes)
return 1
""",
)

DROP: Final = script(
    "drop",
    """
local _, _, _, id = parts_of(ARGV[1])
-- START may have been done although its reply was lost: then they belong to the generation.
if redis.call('EXISTS', name(id, 'meta')) == 1 then return 0 end
drop_parts(ARGV[1])
return 1
""",
)


def held_parts(stream_id: str, owner: str, sizes: list[int]) -> str:
    """What the parts of one request are known by in Redis: `BYTES:COUNT:NAME:ID`; "" for none."""
    return f"{sum(sizes)}:{len(sizes)}:{keys.digest(owner)}:{stream_id}" if sizes else ""


def hold(held: str, most_bytes: int, most_of_owner: int) -> list[Argument]:
    return HOLD.arguments([], [held, most_bytes, most_of_owner])


def hold_reply(reply: Any) -> bool:
    """False: there is no room, and none was taken."""
    return bool(reply)


def drop(held: str) -> list[Argument]:
    return DROP.arguments([], [held])
