"""The Lua scripts as data, one module each: text, arguments, replies. Callers with a Redis connection run them.

Each script is one atomic step of `lifecycle.TRANSITIONS`. They build key names from ids: one server's, or those of the
slot of a cluster that their first key is in; see `keys` and `script`.
"""

from typing import Final

from tokenrelay.protocol.store.scripts.appending import APPEND, APPEND_MORE, AppendReply, append, append_reply
from tokenrelay.protocol.store.scripts.cancelling import CANCEL, cancel
from tokenrelay.protocol.store.scripts.claiming import CLAIM, Claim, claim, claim_reply, needs
from tokenrelay.protocol.store.scripts.forgetting import FORGET, forget
from tokenrelay.protocol.store.scripts.holding import DROP, HOLD, HOLD_MS, drop, held_parts, hold, hold_reply
from tokenrelay.protocol.store.scripts.notifying import (
    DUE,
    NOTIFIED,
    DueReply,
    Ended,
    due,
    due_reply,
    notified,
)
from tokenrelay.protocol.store.scripts.reaping import REAP, ReapReply, reap, reap_reply
from tokenrelay.protocol.store.scripts.releasing import RELEASE, release
from tokenrelay.protocol.store.scripts.renewing import RENEW, RenewReply, renew, renew_reply
from tokenrelay.protocol.store.scripts.reserving import (
    RESERVE,
    RETURN,
    ReserveReply,
    give_back,
    owner_tag,
    reserve,
    reserve_reply,
)
from tokenrelay.protocol.store.scripts.script import (
    LEASE_MS,
    LIVE_MS,
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_ENDED,
    NOTIFY_MS,
    RENEW_EVERY_S,
    SUSPICION_MS,
    TOMBSTONE_MS,
    Argument,
    Script,
)
from tokenrelay.protocol.store.scripts.sharing import SHARE, Share, share, share_reply
from tokenrelay.protocol.store.scripts.starting import (
    START,
    START_RESERVED,
    Limits,
    NewStream,
    StartReply,
    start,
    start_reply,
    start_reserved,
)

ALL: Final = (HOLD, START, DROP, CLAIM, APPEND, RENEW, RELEASE, CANCEL, REAP, SHARE, FORGET, DUE, NOTIFIED)
IN_CLUSTER: Final = (RESERVE, START_RESERVED, RETURN)
"""In place of START."""


__all__ = [
    "ALL",
    "APPEND",
    "APPEND_MORE",
    "CANCEL",
    "CLAIM",
    "DROP",
    "DUE",
    "FORGET",
    "HOLD",
    "HOLD_MS",
    "IN_CLUSTER",
    "LEASE_MS",
    "LIVE_MS",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_ENTRIES",
    "MAX_ENDED",
    "NOTIFIED",
    "NOTIFY_MS",
    "REAP",
    "RELEASE",
    "RENEW",
    "RENEW_EVERY_S",
    "RESERVE",
    "RETURN",
    "SHARE",
    "START",
    "START_RESERVED",
    "SUSPICION_MS",
    "TOMBSTONE_MS",
    "AppendReply",
    "Argument",
    "Claim",
    "DueReply",
    "Ended",
    "Limits",
    "NewStream",
    "ReapReply",
    "RenewReply",
    "ReserveReply",
    "Script",
    "Share",
    "StartReply",
    "append",
    "append_reply",
    "cancel",
    "claim",
    "claim_reply",
    "drop",
    "due",
    "due_reply",
    "forget",
    "give_back",
    "held_parts",
    "hold",
    "hold_reply",
    "needs",
    "notified",
    "owner_tag",
    "reap",
    "reap_reply",
    "release",
    "renew",
    "renew_reply",
    "reserve",
    "reserve_reply",
    "share",
    "share_reply",
    "start",
    "start_reply",
    "start_reserved",
]
