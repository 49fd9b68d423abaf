"""Strangers send anything through the shipped nginx to two edges, while callers with keys ask: each gets its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Final

from tests.fleet import Fleet
from tests.fuzz.cases import http_request, mutated, pieces
from tests.raw import Raw
from tests.recipes.nginx import Nginx
from tests.wire import call

VICTIMS: Final = 3
STRANGERS: Final = 8
START: Final = b'POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\n{"message":"a","model":"local"}'
"""What must not run with a victim's key: without one it is refused."""


def run(rng: random.Random, seconds: float) -> tuple[str | None, int]:
    """What went wrong (None: nothing), and how many connections were tried."""
    keys = ",".join(f"victim{number}:secret-of-victim-{number}" for number in range(VICTIMS))
    with (
        Fleet(edges=2, workers=0, env={"TOKENRELAY_API_KEYS": keys, "TOKENRELAY_READ_TIMEOUT_S": "2"}) as fleet,
        Nginx(fleet.urls) as nginx,
    ):
        return asyncio.run(_scene(nginx.url, rng, time.monotonic() + seconds))


async def _scene(url: str, rng: random.Random, ends_at: float) -> tuple[str | None, int]:
    tried = [0]

    async def stranger(own: random.Random) -> None:
        while time.monotonic() < ends_at:
            tried[0] += 1
            whole = b"".join(http_request(own, number)[0] for number in range(own.randint(1, 3))) + START
            whole = whole.replace(b"\r\n/", b"\r\n/api/") if own.random() < 0.5 else whole
            sent = mutated(own, whole) if own.random() < 0.5 else whole
            with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                async with Raw(url) as peer, asyncio.timeout(1):
                    for part in pieces(own, sent)[:50]:
                        await peer.say(part)
                        await asyncio.sleep(own.choice((0, 0, 0.02)))
                    await peer.reader.read(65_536)

    async def victim(number: int) -> str | None:
        headers = {"Authorization": f"Bearer secret-of-victim-{number}"}
        asked = 0
        while time.monotonic() < ends_at:
            asked += 1
            mark = f"victim-{number}-{asked}"
            status, said, heads = await call("GET", f"{url}/api/streams", headers={**headers, "X-Request-Id": mark})
            if status != 200 or heads.get("X-Request-Id") != mark:
                return f"victim {number} asked {mark} and got {status}, {heads.get('X-Request-Id')}: {said}"
            if said["streams"]:
                return f"victim {number} has a stream that it did not start"
            await asyncio.sleep(0.01)
        return None

    crowd = [asyncio.create_task(stranger(random.Random(rng.getrandbits(64)))) for _ in range(STRANGERS)]
    found = await asyncio.gather(*(victim(number) for number in range(VICTIMS)))
    await asyncio.gather(*crowd)
    return next((each for each in found if each), None), tried[0]
