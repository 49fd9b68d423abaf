"""An entry as each transport sends it: an SSE frame, a JSON message, a msgpack message."""

from __future__ import annotations

from typing import Final, cast

import msgpack

from tokenrelay.protocol.reading.feed import Format
from tokenrelay.protocol.store.entries import Entry
from tokenrelay.protocol.wire import event_json


def _sse(entry: Entry, entry_id: int, stream_id: str) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (entry_id, event_json.json_of(entry, stream_id).encode())


def _ws_json(entry: Entry, entry_id: int, stream_id: str) -> bytes:
    data = event_json.json_of(entry, stream_id)
    return f'{{"type":"event","stream_id":"{stream_id}","id":{entry_id},"data":{data}}}'.encode()


def _ws_msgpack(entry: Entry, entry_id: int, stream_id: str) -> bytes:
    data = event_json.data_of(entry, stream_id)
    return cast(bytes, msgpack.packb({"type": "event", "stream_id": stream_id, "id": entry_id, "data": data}))


SSE: Final = Format("sse", _sse)
WS_JSON: Final = Format("ws-json", _ws_json, b",")
WS_MSGPACK: Final = Format("ws-msgpack", _ws_msgpack)
