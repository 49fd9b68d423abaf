"""What a client's program is given and how it tells what became of its cases. Runs in the client's own environment: it
imports nothing but the standard library.

One line of JSON to stdout for each: `{"case", "error"}` (null where it went well), `{"drain": true}` where the third
edge is to be drained now, `{"read": id, "text"}` where a stream is to be read in other ways too.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

GIVEN: Final[dict[str, str]] = json.loads(os.environ.get("CONFORMANCE", "{}"))
"""`first`, `second`, `drained`: edges. `key`; `cost_usd` of what the provider counts; `docs`: where the pages are."""


def words(count: int) -> str:
    """What the scripted model writes."""
    return "".join(f"w{number} " for number in range(count))


TEXT: Final = "scripted?tokens=12&interval_ms=5"
WORDS: Final = words(12)
LONG: Final = "scripted?tokens=100000&interval_ms=10"
SILENT: Final = "scripted?tokens=2&first_ms=2500&interval_ms=2500"
"""Heartbeats come before its first token and between the two."""

BROKEN: Final = "scripted?tokens=12&fail_after=5"
CALLING: Final = "scripted?tokens=9&tool_after=4"
CALLED: Final = ("w0 w1 w2 w3 ", "w4 w5 w6 w7 w8 ")
"""What the model that calls writes before the call and after its result."""

PICTURE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
THOUGHT: Final = "Let me see."
WAIT_S: Final = 30.0


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def run(cases: Mapping[str, Callable[[], None]]) -> None:
    """Each case is told of, whatever becomes of it."""
    for name, case in cases.items():
        try:
            case()
        except Exception:
            say(case=name, error=traceback.format_exc())
        else:
            say(case=name, error=None)


def expect(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"expected {wanted!r}, got {found!r}")


def state_of(stream_id: str) -> str:
    """As our own wire tells it."""
    told: dict[str, Any] = ask("GET", f"/api/streams/{stream_id}")
    return str(told["state"])


def ask(method: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {GIVEN['key']}", "Accept": "application/json"}
    request = urllib.request.Request(GIVEN["first"] + path, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.load(answer)


def running() -> set[str]:
    """Ids of the streams that run: some clients show no head in which to find one's own."""
    rows = ask("GET", "/api/streams")["streams"]
    return {row["stream_id"] for row in rows if row["state"] in ("queued", "running")}


def until_state(stream_id: str, wanted: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while (state := state_of(stream_id)) != wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"expected {wanted}, it is still {state}")
        time.sleep(0.1)
