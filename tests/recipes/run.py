"""A recipe as a process: its code unchanged, server and key in its environment; and what the server knows meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from tests.fleet import ROOT, Fleet
from tests.needs import require

KEY: Final = "sesame"
AUTHORIZED: Final = {"Authorization": f"Bearer {KEY}"}


def command_of(language: str, code: str) -> list[str]:
    """How a reader would run it."""
    if language == "python":
        return [sys.executable, "-c", code]
    if language == "js":
        node = shutil.which("node")
        require(node, "node on PATH")
        return [str(node), "--input-type=module", "--eval", code]
    for program in ("bash", "curl"):
        require(shutil.which(program), f"{program} on PATH")
    return [str(shutil.which("bash")), "-c", code]


class Running:
    """What one process says, as it comes."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.said = ""

    def wait_for(self, words: str) -> None:
        """Read until it has said this. Raises AssertionError when it ends before."""
        while words not in self.said:
            piece = self._out.read1(65_536)  # type: ignore[attr-defined]  # Popen's pipe is a BufferedReader
            assert piece, f"it ended without {words!r}: {self.said}"
            self.said += piece.decode()

    def rest(self) -> str:
        """All it says, to its end."""
        self.said += self._out.read().decode()
        return self.said


@contextlib.contextmanager
def running(
    language: str, code: str, url: str, env: dict[str, str] | None = None, folder: Path | None = None
) -> Iterator[Running]:
    """Start it; at the end of the block it is over, by itself or not."""
    given = {"TOKENRELAY_URL": url, "TOKENRELAY_KEY": KEY, "PYTHONPATH": str(ROOT), **(env or {})}
    with subprocess.Popen(
        command_of(language, code), env=os.environ | given, stdout=subprocess.PIPE, cwd=folder
    ) as process:
        try:
            assert process.stdout is not None
            yield Running(process.stdout)
        finally:
            process.kill()


def fetch(url: str) -> dict[str, Any]:
    """The JSON of one call, whatever its status."""
    headers = {"Accept": "application/json", **AUTHORIZED}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5)
    except urllib.error.HTTPError as refused:
        answer = refused
    with answer:
        value: dict[str, Any] = json.load(answer)
        return value


def snapshot(fleet: Fleet, stream_id: str) -> dict[str, Any]:
    """By an edge itself, not through what is tested. The second: the first is the one that tests kill."""
    return fetch(f"{fleet.urls[1]}/api/streams/{stream_id}")


def all_streams(fleet: Fleet) -> list[str]:
    """Ids, the newest first; at most 100."""
    return [row["stream_id"] for row in fetch(f"{fleet.urls[1]}/api/streams")["streams"]]


def newest(fleet: Fleet) -> str:
    return all_streams(fleet)[0]


def cancel(fleet: Fleet, stream_id: str) -> None:
    asked = urllib.request.Request(f"{fleet.urls[1]}/api/streams/{stream_id}/cancel", b"", AUTHORIZED)
    urllib.request.urlopen(asked, timeout=5).close()


def events_of(sse: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in sse.splitlines() if line.startswith("data: ")]
