"""Which server has which slot, from the answer to CLUSTER SLOTS. Pure.

https://redis.io/docs/latest/commands/cluster-slots/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tokenrelay.protocol.store.partitions import SLOTS

_NOBODY: Final = ""


class SlotMap(NamedTuple):
    """`owners` has a server's `host:port` for each slot, "" where nobody has it; `primaries` and `replicas` are
    addresses."""

    owners: tuple[str, ...]
    primaries: tuple[str, ...]
    replicas: tuple[str, ...]


EMPTY: Final = SlotMap((_NOBODY,) * SLOTS, (), ())


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_and_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


def parse(rows: Sequence[Any], asked: str) -> SlotMap:
    """Of what `asked` said: `[first, last, [host, port, id, …] of the primary, … of each replica]`, unparsed. An empty
    host means that of the server asked. Raises ValueError for what is no such answer."""
    owners = [_NOBODY] * SLOTS
    primaries: dict[str, None] = {}
    replicas: dict[str, None] = {}
    try:
        for row in rows:
            first, last, primary, *others = row
            owner = _place(primary, asked)
            primaries[owner] = None
            replicas |= dict.fromkeys(_place(other, asked) for other in others)
            owners[first : last + 1] = [owner] * (last + 1 - first)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError("no answer to CLUSTER SLOTS") from error
    if len(owners) != SLOTS:
        raise ValueError("slots that no cluster has")
    return SlotMap(tuple(owners), tuple(primaries), tuple(replicas))


def _place(row: Any, asked: str) -> str:
    host = row[0].decode() if isinstance(row[0], bytes) else row[0]
    return address(host or host_and_port(asked)[0], int(row[1]))
