"""How long a generation waits for a worker, idle and with thousands in flight. Uses only HTTP, to a running fleet.

    python -m loadtest.dispatch --host http://127.0.0.1:8000 --in-flight 10 2000

Pickup is from the accepted event to the started event, as one client sees them on one connection: the time from
"queued" to
"a worker runs it and its first entry has come back through Redis and the edge". TTFT is from the request's first byte
out to
the first token in, with a model that writes at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tokenrelay.loadtest import loop
from tokenrelay.protocol.wire.sse import Decoder

PATIENCE_S: Final = 60.0
BACKGROUND: Final = "scripted?tokens=1000000&interval_ms=1000"
PROBE: Final = "scripted?tokens=1&interval_ms=0"
AT_ONCE: Final = 50


class Target:
    """Where the fleet is, and with what key."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.headers = f"Host: {parts.netloc}\r\nConnection: close\r\n"
        if key is not None:
            self.headers += f"Authorization: Bearer {key}\r\n"

    async def request(
        self, method: str, path: str, body: Any = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send; the answer is the caller's to read."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        raw = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self.headers}Content-Length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        return reader, writer


async def start(target: Target) -> str:
    """A generation in the background; gives its id."""
    reader, writer = await target.request("POST", "/api/chat", {"message": "x", "model": BACKGROUND, "stream": True})
    try:
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    finally:
        writer.transport.abort()
    if " 200 " not in head.split("\r\n", 1)[0]:
        raise SystemExit(f"refused: {head.splitlines()[0]}")
    return next(line.partition(": ")[2] for line in head.splitlines() if line.startswith("x-stream-id"))


async def probe(target: Target) -> tuple[float, float]:
    """One short generation: (pickup, TTFT) in seconds."""
    begun = time.perf_counter()
    reader, writer = await target.request("POST", "/api/chat", {"message": "x", "model": PROBE, "stream": True})
    decoder = Decoder()
    accepted = started = 0.0
    try:
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"\r\n\r\n")
            while chunk := await reader.read(65536):
                # Chunk framing looks like unknown fields to the decoder, which has to ignore them; events are never
                # split.
                for frame in decoder.feed(chunk.replace(b"\r\n", b"\n")):
                    now, data = time.perf_counter(), json.loads(frame.data)
                    if data.get("status") == "queued":
                        accepted = now
                    elif data.get("status") == "started":
                        started = now
                    elif data.get("token"):
                        return started - accepted, now - begun
    finally:
        writer.transport.abort()
    raise SystemExit("a probe ended without a token")


async def cancel(target: Target, stream_id: str) -> None:
    reader, writer = await target.request("DELETE", f"/api/streams/{stream_id}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await reader.read()
    finally:
        writer.close()


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def measure(target: Target, in_flight: list[int], probes: int) -> list[dict[str, float]]:
    running: list[str] = []
    rows: list[dict[str, float]] = []
    try:
        for wanted in sorted(in_flight):
            while len(running) < wanted:
                number = min(AT_ONCE, wanted - len(running))
                running += await asyncio.gather(*(start(target) for _ in range(number)))
            await asyncio.sleep(2)  # so that the start of the background is not what is measured
            await probe(target)
            samples = []
            for _ in range(probes):
                samples.append(await probe(target))
                await asyncio.sleep(0.01)
            rows.append(_row(wanted, samples))
            print(_line(rows[-1]), flush=True)
    finally:
        for begin in range(0, len(running), AT_ONCE):
            await asyncio.gather(*(cancel(target, item) for item in running[begin : begin + AT_ONCE]))
    return rows


def _row(in_flight: int, samples: list[tuple[float, float]]) -> dict[str, float]:
    row: dict[str, float] = {"in_flight": in_flight, "probes": len(samples)}
    for name, values in (("pickup", [s[0] for s in samples]), ("ttft", [s[1] for s in samples])):
        for share in (50, 95, 99):
            row[f"{name}_ms_p{share}"] = round(percentile(values, share / 100) * 1000, 2)
    return row


def _line(row: dict[str, float]) -> str:
    pickup = f"pickup p50 {row['pickup_ms_p50']:>7.2f}  p99 {row['pickup_ms_p99']:>7.2f} ms"
    ttft = f"ttft p50 {row['ttft_ms_p50']:>7.2f}  p99 {row['ttft_ms_p99']:>7.2f} ms"
    return f"{row['in_flight']:>6.0f} in flight   {pickup}   {ttft}   ({row['probes']:.0f} probes)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.dispatch", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--host", default="http://127.0.0.1:8000", help="URL of an edge")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[10, 2000], metavar="N")
    parser.add_argument("--probes", type=int, default=300, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args()
    rows = loop.run(measure(Target(arguments.host, arguments.key), arguments.in_flight, arguments.probes))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
