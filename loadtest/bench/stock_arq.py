"""The same product with arq's own loop in place of our dispatch, to compare with: `python -m loadtest.bench.stock_arq`.

Everything else of the worker is as it is: what runs a generation, the writer, the scripts. arq's loop polls, walks all
jobs of its queue, those that run too, with three round trips each, and starts what nobody has. It is tuned: it polls
every 10 ms where arq's default is 500 (https://arq-docs.helpmanual.io, `poll_delay`).
"""

from __future__ import annotations

import sys
from typing import Any, Final

from arq import Worker, func

from protocol import keys, scripts
from workers import process
from workers.house import House
from workers.settings import Settings

POLL_S: Final = 0.01

# Our claim takes jobs out of the queue; arq wants them in it until they end. This one takes one, and leaves it there.
CLAIM_ONE: Final = """
local t = redis.call('TIME')
local now, meta = t[1] * 1000 + math.floor(t[2] / 1000), KEYS[1]
if redis.call('HGET', meta, 'state') ~= 'queued' then return {} end
redis.call('HINCRBY', meta, 'epoch', 1)
redis.call('HSET', meta, 'state', 'running', 'worker', ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return {{ARGV[1], now, unpack(redis.call('HMGET', meta, 'epoch', 'last', 'created', 'model', 'on_disconnect', 'request'))}}
"""


class StockWorker(Worker):
    """arq's worker with arq's loop; the rest is what `workers.process` wants of its dispatcher."""

    def __init__(self, house: House) -> None:
        settings = house.settings
        super().__init__(
            functions=[func(self._generate, name="generate")],
            queue_name=keys.WAITING,
            redis_pool=house.redis,
            handle_signals=False,
            max_jobs=settings.max_jobs,
            poll_delay=POLL_S,
            job_timeout=settings.generation_timeout_s + 60,
            keep_result=0,
            max_tries=1_000,
            retry_jobs=False,
            job_deserializer=house.redis.job_deserializer,
            log_results=False,
        )
        self._house = house
        self._claim = house.redis.register_script(CLAIM_ONE)
        self.is_claiming = True

    def wake(self) -> None:
        """Nothing: it polls."""

    async def _generate(self, ctx: dict[Any, Any], stream_id: str) -> None:
        house = self._house
        names = [keys.meta(stream_id), keys.LEASES]
        reply = await self._claim(keys=names, args=[stream_id, scripts.LEASE_MS, house.worker_id])
        for claim in scripts.claim_reply(reply):
            house.claims[stream_id] = claim
            await house.generate(ctx, stream_id)


def main() -> None:
    process.LeaseWorker = StockWorker  # type: ignore[misc, assignment]
    process.run(Settings())


if __name__ == "__main__":
    sys.exit(main())
