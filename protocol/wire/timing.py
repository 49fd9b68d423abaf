"""Where the time to the first token went, as fields of the completion event; adds edge and worker up. Reads no clock.

    received ─admit─▶ enqueued ─queue─▶ claimed ─pickup─▶ asked ─failed─▶ asked again ─provider─▶ first piece
    first piece ─append─▶ in the log                        reached the edge ─edge─▶ in the socket

Every part is a difference of one process's monotonic clock, but for `queue`, which is one of Redis's own clock (whole
milliseconds). No clock of one host is ever compared with that of another. What is left of the whole, `ttft_ms`, is
`hops_ms`: the ways between the processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from tokenrelay.protocol.events import Completion
from tokenrelay.protocol.reading.feed import Chunk, Format
from tokenrelay.protocol.store import entries
from tokenrelay.protocol.store.entries import Entry

PARTS: Final = ("admit_ms", "queue_ms", "pickup_ms", "failed_ms", "provider_ms", "append_ms", "edge_ms")
"""In the order in which they pass; the second to the sixth are the worker's."""


def ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 2)


def whole(parts: Mapping[str, float], ttft_ms: float) -> dict[str, float]:
    """All parts that are known, what the ways between took, and the whole. With clocks of whole milliseconds, and an
    acknowledgement that is on its way while readers have the token, the parts may be a little more than the whole; then
    `hops_ms` is 0."""
    known = {name: parts[name] for name in PARTS if name in parts}
    return {**known, "hops_ms": round(max(0.0, ttft_ms - sum(known.values())), 2), "ttft_ms": ttft_ms}


def told(chunk: Chunk, end: Entry, form: Format, stream_id: str, ours: Mapping[str, float], ttft_ms: float) -> Chunk:
    """The same chunk with the edge's parts in its last event. One that does not end in a completion stays as it is."""
    event = entries.event_of(end)
    if not chunk.is_last or not isinstance(event, Completion):
        return chunk
    timing = whole({**(event.timing or {}), **ours}, ttft_ms)
    new = entries.unpack_entry(entries.pack(msgspec.structs.replace(event, timing=timing)))
    old = form.encode(end, chunk.cursor, stream_id)
    body = chunk.body.removesuffix(old) + form.encode(new, chunk.cursor, stream_id)
    return msgspec.structs.replace(chunk, body=body)
