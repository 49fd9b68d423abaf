"""What a cluster's error reply says of where to ask, and when. Pure.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tokenrelay.protocol.runtime.redis import words_of
from tokenrelay.protocol.runtime.stores.slot_map import address

SOON_S: Final = 0.02
LATER_S: Final = 0.1
_REDIRECT: Final = re.compile(r"\b(MOVED|ASK) (\d+) (\S*):(\d+)")
_DOWN: Final = ("CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN")


class Redirect(NamedTuple):
    """Ask again after `pause_s`. `moved`: the slot and the server that has it now (its host "" for the one asked).
    `for_now`: the server that has this key for now, while the slot is moved. `is_down`: there may be another server by
    then."""

    pause_s: float
    moved: tuple[int, str] | None = None
    for_now: str = ""
    is_down: bool = False


def redirect(error: BaseException) -> Redirect | None:
    """None for an error that is no word of a cluster about itself."""
    said = f"{type(error).__name__} {words_of(error)}"
    if found := _REDIRECT.search(said):
        kind, slot, host, port = found.groups()
        place = address(host, int(port))
        return Redirect(0.0, (int(slot), place)) if kind == "MOVED" else Redirect(SOON_S, for_now=place)
    if "TRYAGAIN" in said:
        return Redirect(SOON_S)
    is_down = any(word in said for word in _DOWN) or "ReadOnlyError" in said or "BusyLoadingError" in said
    return Redirect(LATER_S, is_down=True) if is_down else None
