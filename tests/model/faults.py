"""Mistakes that somebody could make in a script, one at a time; the machine has to find each."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from tokenrelay.protocol.lifecycle import MAX_ATTEMPTS
from tokenrelay.protocol.store import keys
from tokenrelay.protocol.store.scripts import SUSPICION_MS, TOMBSTONE_MS, Script
from tokenrelay.protocol.store.scripts.reserving import YOUNG_MS

NEXT_EPOCH: Final = "redis.call('HINCRBY', meta, 'epoch', 1)\n  settle"
"""Of `finish`: who had it is fenced."""


class Fault(msgspec.Struct, frozen=True):
    """In the scripts whose names begin with `script`, `wrong` stands in place of `right`."""

    script: str
    right: str
    wrong: str
    is_one_servers: bool = False
    """In a cluster it is no mistake."""

    def is_in(self, script: Script) -> bool:
        return script.name.startswith(self.script) and self.right in script.text

    def right_in(self, text: str) -> str:
        return _as_in(text, self.right)

    def wrong_in(self, text: str) -> str:
        return _as_in(text, self.wrong)

    def __str__(self) -> str:
        return f"{self.script}: {self.right.splitlines()[0].strip()[:60]}"


def _as_in(text: str, piece: str) -> str:
    """In a script's text for a cluster names are made from the slot's."""
    return re.sub(r"'tr:([a-z:]+)'", r"(AT .. '\1')", piece) if text.startswith("#!lua") else piece


FAULTS: Final = (
    Fault("hold", f"if redis.call('ZSCORE', '{keys.PARTS}', held) then return 1 end", ""),
    Fault("hold", "+ bytes > bound", "> bound"),
    Fault("hold", "[owner] = most_of_owner", ""),
    Fault("hold", "drop_overdue(100)", ""),
    Fault("hold", "for n = 0, count - 1 do", "for n = 1, count - 1 do"),
    Fault("start", "if redis.call('EXISTS', meta) == 1 then return {'started', id, -1, 0} end", ""),
    Fault("start", "known[2] == fingerprint", "true"),
    Fault("start", "if known[1] and redis.call('EXISTS', name(known[1], 'meta')) == 1", "if known[1]"),
    Fault("start", "return {'lost', id}", "break"),
    Fault("start", "waiting >= max_waiting", "waiting > max_waiting"),
    Fault("start", "(queued[1] or 0) + size > most_bytes", "(queued[1] or 0) > most_bytes"),
    Fault("start", "queued[2] + 1 > math.floor", "queued[2] > math.floor"),
    Fault("start", ">= most_active", "> most_active"),
    Fault("start", "if state ~= 'queued' and state ~= 'running' then", "if false then"),
    Fault("start", "if due - now > 60000 + 0.001", "if due - now > 90000"),
    Fault("start", "redis.call('ZADD', active, now, id)", ""),
    Fault("start", f"redis.call('ZADD', '{keys.PARTS}', now + retention + {TOMBSTONE_MS}, held)", ""),
    Fault("start", "redis.call('ZADD', owner, now, id)", ""),
    Fault("start", f"publish('{keys.WAKE}', ARGV[13])", ""),
    Fault("start", f"publish('{keys.WAKE}', ARGV[13])", f"publish('{keys.WAKE}', '')"),
    Fault("start", f"'{keys.WAITING}', now, id) > 0", f"'{keys.WAITING}', now, id) > 1"),
    Fault("drop", "if redis.call('EXISTS', name(id, 'meta')) == 1 then return 0 end", ""),
    Fault("drop", "drop_parts(ARGV[1])", ""),
    Fault("claim", "m[2] = redis.call('HINCRBY', meta, 'epoch', 1)", ""),
    Fault("claim", "leave_waiting(id)\n    m[2]", "m[2]"),
    Fault("claim", "now + lease", "now"),
    Fault("claim", "a[1] < b[1]", "a[1] > b[1]"),
    Fault("claim", "not is_read or is_ours", "true"),
    Fault("claim", "'told', 0", "'worker', ARGV[3]"),
    Fault("claim", "filed < redis.call", "false and filed < redis.call"),
    Fault("claim", "finish(id, ARGV[4], 'failed', tonumber(ARGV[5]))", "leave_queue(id)"),
    Fault("append", "m[1] ~= epoch or ", ""),
    Fault("append", "(m[3] ~= 'running' and final > last)", "false"),
    Fault("append", "if first > last + 1", "if first > last + 2"),
    Fault("append", "if final <= last then return {'ok', last, -1, cancel} end", ""),
    Fault("append", "ARGV[7 + n - first]", "ARGV[7 + n - new]"),
    Fault("append", "redis.call('HSET', meta, 'last', final)", ""),
    Fault("append", "'', 7 + new - first)", "'', 7)"),
    Fault("append", "if told ~= ''", "if false"),
    Fault("append_more", "if new == 1 then keep_log", "if false then keep_log"),
    Fault("append", "redis.call('HDEL', meta, 'request', 'active',", "redis.call('HDEL', meta, 'active',"),
    Fault("append", "if left_over[1] then", "if false then", is_one_servers=True),  # a cluster's learn it from REAP
    Fault("append", "if left_over[2] then", "if false then"),
    Fault("append", "if left_over[3] and not left_over[4]", "if left_over[3]"),
    Fault("append", f"redis.call('ZREM', '{keys.LEASES}', id)", ""),
    Fault("renew", "m[1] ~= ARGV[i + 1] or ", ""),
    Fault("renew", " or m[2] ~= 'running'", ""),
    Fault("renew", "if m[4] then redis.call('HDEL', meta, 'suspect') end", ""),
    Fault("renew", "keep_log(id, retention)\n", "\n"),
    Fault("renew", f"redis.call('PEXPIRE', meta, retention + {TOMBSTONE_MS})\n    keep_log", "keep_log"),
    Fault("renew", "if m[3] then cancelled", "if false then cancelled"),
    Fault("renew", "listeners[2] > 0", "listeners[2] > 1"),
    Fault("release", "m[1] ~= ARGV[2] or ", ""),
    Fault("release", "m[2] ~= 'running' or ", ""),
    Fault("release", " or has_told(m[3], m[5])", ""),
    Fault("release", " or m[4] then return 0", " then return 0"),
    Fault("release", "'suspect', 'told'", "'told'"),
    Fault("release", f"publish('{keys.WAKE}', '')", ""),
    Fault("release", "wait(id, now_ms())", "wait(id, 0)"),
    Fault("cancel", "if state ~= 'running' then return state end", ""),
    Fault("cancel", "redis.call('HSET', KEYS[1], 'cancel', 1)", ""),
    Fault("cancel", f"publish('{keys.CANCEL}', ARGV[1])", ""),
    Fault("cancel", NEXT_EPOCH, "settle"),
    Fault("cancel", "redis.call('HSET', meta, 'last', last)", ""),
    Fault("reap", "elseif not m[5] then", "elseif false then"),
    Fault("reap", f"now + {SUSPICION_MS}, id", "now, id"),
    Fault("reap", "not has_told(m[3], m[6]) and ", ""),
    Fault("reap", f"tonumber(m[2]) < {MAX_ATTEMPTS}", "true"),
    Fault("reap", " and not m[4] then", " then"),
    Fault("reap", "drop_overdue(most)", ""),
    Fault("reap", "if left_over[1] then", "if false then"),
    Fault("reap", "'-inf', now - ARGV[4]", "'-inf', now"),
    Fault("reap", NEXT_EPOCH, "settle"),
    Fault("reap", "if not m or m[1] ~= 'running' then\n    leave_queue(id)", "if not m then\n"),
    Fault("share", f"(redis.call('HGET', '{keys.HEALTH}', model) or '') == old", "true"),
    Fault("share", "redis.call('GET', trial) == ARGV[1]", "true"),
    Fault("share", "local is_ours = new == ''", "local is_ours = false"),
    Fault("forget", f"redis.call('ZREM', '{keys.ENDED}', ARGV[1])", ""),
    Fault("forget", "if state ~= 'queued' and state ~= 'running' then", "if true then"),
    Fault("forget", "redis.call('DEL', KEYS[2])", ""),
    Fault("due", "now + ARGV[2], id", "now, id"),
    Fault("due", "'notify', 1)", "'notify', 2)"),
    Fault("due", "if dropped then", "if false then"),
    Fault("due", "'-inf', now, 'LIMIT'", "'-inf', '+inf', 'LIMIT'"),
    Fault("notified", "'XX', 'CH'", "'CH'"),
    Fault("notified", f"'{keys.ENDED}', id) == 0", f"'{keys.ENDED}', id) == 2"),
    Fault("notified", "redis.call('HDEL', name(id, 'meta'), 'notify')", ""),
    Fault("notified", "m[1] + retention - now_ms()", "retention"),
)  # fmt: skip

OF_CLUSTERS: Final = (
    Fault("reserve", "known[1] ~= id and ", ""),
    Fault("reserve", " and known[1] ~= replaces", ""),
    Fault("reserve", "known[2] == fingerprint", "true"),
    Fault("reserve", "if redis.call('ZSCORE', active, id) then return {'reserved', -1, 0} end", ""),
    Fault("reserve", "redis.call('ZREM', active, known)", ""),
    Fault("reserve", "'XX', now, known", "now, known"),
    Fault("reserve", "'XX', now, known", "'XX', 0, known"),
    Fault("reserve", ">= most_active", "> most_active"),
    Fault("reserve", f"now - {YOUNG_MS}", "now"),
    Fault("reserve", "if due - now > 60000 + 0.001", "if due - now > 90000"),
    Fault("reserve", "redis.call('ZADD', active, now, id)", ""),
    Fault("reserve", "redis.call('ZADD', owner, now, id)", ""),
    Fault("reserve", "'at', now)", "'at', 1)"),
    Fault("return", "redis.call('ZREM', active, id) == 0", "redis.call('ZREM', active, id) == 2"),
    Fault("return", "redis.call('ZREM', owner, id)", ""),
    Fault("return", "due - 60000 / per_minute)", "due)"),
    Fault("return", "redis.call('HGET', idem, 'id') == id", "false"),
    Fault("return", "redis.call('HGET', idem, 'id') == id", "true"),
    Fault("return", "redis.call('GET', chat) == id", "false"),
    Fault("return", "redis.call('GET', chat) == id", "true"),
)
