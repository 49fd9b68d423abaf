"""Runs a client's program against a fleet and notes what became of each case. Knows no client."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from tests.conformance import environments, provider
from tests.conformance.environments import Client
from tests.fleet import ROOT, Fleet
from tests.wire import Sse, Ws, text_of

CASES: Final = (
    "text", "own tools", "server's tools", "usage", "thinking", "images", "errors before", "errors in the stream",
    "cancel", "disconnect", "resume", "attach", "replay", "silence", "drain", "read elsewhere", "page",
)  # fmt: skip
KEY: Final = "secret-of-conformance-0123456789"
PROGRAM_TIMEOUT_S: Final = 240.0

Outcome = dict[str, str | None]
"""Case → what went wrong, None where it went well. A case that a client has no word for is not in it."""


class Stack:
    """Two edges, a worker and a provider of our own, and one more edge for each client, which is drained."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def run(self, client: Client) -> Outcome:
        """Whatever becomes of the program."""
        self.fleet.add_edge()
        drained = len(self.fleet.urls) - 1
        self.fleet.wait_until_ready()
        given = {
            "first": self.fleet.urls[0], "second": self.fleet.urls[1], "drained": self.fleet.urls[drained], "key": KEY,
            "cost_usd": str(provider.COST_USD), "docs": str(ROOT / "docs"),
        }  # fmt: skip
        kept = {"HOME": os.environ.get("HOME", "/"), "PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        env = {**kept, "PYTHONPATH": str(ROOT), "CONFORMANCE": json.dumps(given)}
        outcome: Outcome = {}
        with subprocess.Popen(
            environments.command(client), env=env, cwd=environments.folder(client), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            errors: list[str] = []
            lines: queue.Queue[str | None] = queue.Queue()
            readers = [
                threading.Thread(target=_pour, args=(process.stdout, lines)),
                threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else "")),
            ]
            for reader in readers:
                reader.start()
            deadline = time.monotonic() + PROGRAM_TIMEOUT_S
            try:
                while (line := lines.get(timeout=max(deadline - time.monotonic(), 0.1))) is not None:
                    self._take(line, outcome, drained)
            except queue.Empty:
                outcome["in time"] = f"it still ran after {PROGRAM_TIMEOUT_S:g} s"
            finally:
                process.kill()
                for reader in readers:
                    reader.join(10)
            code = process.wait(10)
        if self.fleet.edges[drained].poll() is None:
            self.fleet.kill_edge(drained)
        if code not in (0, -signal.SIGKILL) or not outcome:
            outcome["program"] = f"it ended with {code}\n{errors[0][-4000:] if errors else ''}"
        return outcome

    def _take(self, line: str, outcome: Outcome, drained: int) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return  # a library that prints
        if not isinstance(told, dict):
            return
        if "drain" in told:
            self.fleet.edges[drained].send_signal(signal.SIGTERM)
        elif "read" in told:
            issue = asyncio.run(_other_ways(self.fleet.urls[1], told["read"], told["text"]))
            outcome["read elsewhere"] = issue
        elif told.get("case") in CASES:
            outcome[told["case"]] = outcome.get(told["case"]) or told["error"]


@contextmanager
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="tr-conformance-") as folder, provider.Provider() as made:
        path = Path(folder) / "models.toml"
        path.write_text(provider.CATALOGUE.replace("BASE", made.base), encoding="utf-8")
        env = {
            "TOKENRELAY_API_KEYS": f"conformance:{KEY}", "TOKENRELAY_CATALOGUE": str(path),
            "TOKENRELAY_FRONT_GRACE_S": "1", "TOKENRELAY_HEARTBEAT_S": "0.5",
        }  # fmt: skip
        with Fleet(edges=2, workers=1, env=env) as fleet:
            yield Stack(fleet)


async def _other_ways(url: str, stream_id: str, text: str) -> str | None:
    """A stream that a front began, read by our own SSE and by WebSocket."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with Sse.get(url, stream_id, headers=headers) as own:
        by_sse = text_of(await own.take())
    async with Ws(url, headers=headers) as socket:
        await socket.resume(stream_id)
        by_socket = text_of(await socket.take(stream_id))
    return None if text == by_sse == by_socket != "" else f"{text!r}, by SSE {by_sse!r}, by WebSocket {by_socket!r}"


def _pour(source: IO[str] | None, lines: queue.Queue[str | None]) -> None:
    for line in source or ():
        lines.put(line)
    lines.put(None)


def table(outcomes: dict[str, Outcome]) -> str:
    """Client by case: `ok`, `FAIL`, or `-` where the client has no word for it."""
    names = [*CASES, *sorted({name for outcome in outcomes.values() for name in outcome} - set(CASES))]
    rows: list[list[str]] = [["", *names]]
    for client, outcome in outcomes.items():
        rows.append([client, *(_mark(outcome, name) for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _mark(outcome: Outcome, name: str) -> str:
    if name not in outcome:
        return "-"
    return "ok" if outcome[name] is None else "FAIL"


def failures(outcomes: dict[str, Outcome]) -> list[tuple[str, str, Any]]:
    return [(client, name, issue) for client, told in outcomes.items() for name, issue in told.items() if issue]
