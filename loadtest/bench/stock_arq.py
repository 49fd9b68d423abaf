"""The same product with arq's own loop in place of our dispatch, to compare with: `python -m loadtest.bench.stock_arq`.

The rest of the worker is unchanged: generations, the writer, the scripts. arq's loop polls, walks all jobs of its
queue, running ones too, with three round trips each, and starts those that nobody has taken. It is tuned: it polls
every 10 ms where arq's default is 500 (https://arq-docs.helpmanual.io, `poll_delay`).
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgpack
from arq import ArqRedis, Worker, func

from tokenrelay.protocol.store import keys, scripts
from tokenrelay.workers import process
from tokenrelay.workers.dispatch.leases import Held, Leases
from tokenrelay.workers.settings import Settings

POLL_S: Final = 0.01


def claim_one() -> str:
    """Our claim takes jobs out of the queue, the oldest first; arq wants them in it until they end, and says which."""
    text = scripts.CLAIM.text
    for ours, instead in (
        ("oldest(tonumber(ARGV[1]))", "{{0, ARGV[1]}}"),
        ("  if n > tonumber(ARGV[1]) then break end\n", ""),
        ("    leave_waiting(id)\n    m[2] =", "    m[2] ="),
    ):
        if text.count(ours) != 1:
            raise RuntimeError("the claim's script is not what it was; this one has to follow")
        text = text.replace(ours, instead)
    return text


class StockWorker(Worker):
    """arq's worker with arq's loop; the rest is what `workers.process` wants of its dispatcher."""

    def __init__(self, leases: Leases) -> None:
        store: Any = leases.resources.store
        settings = leases.resources.settings
        super().__init__(
            functions=[func(self._generate, name="generate")],
            queue_name=keys.WAITING,
            redis_pool=ArqRedis(store.redis.connection_pool),
            handle_signals=False,
            max_jobs=settings.max_jobs,
            poll_delay=POLL_S,
            job_timeout=settings.generation_timeout_s + 60,
            keep_result=0,
            max_tries=1_000,
            retry_jobs=False,
            job_deserializer=msgpack.unpackb,
            log_results=False,
        )
        self._leases = leases
        self._claim = store.redis.register_script(claim_one())
        self.is_claiming = True

    def wake(self) -> None:
        """Nothing: it polls."""

    async def _generate(self, ctx: dict[Any, Any], stream_id: str) -> None:  # noqa: ARG002  arq's signature
        reply = await self._claim(args=[stream_id, scripts.LEASE_MS, self._leases.worker_id, b"", 0])
        for claim in scripts.claim_reply(reply):
            await self._leases.run(Held(claim, time.monotonic()))


def main() -> None:
    setattr(process, "LeaseWorker", StockWorker)  # noqa: B010  that is the whole difference
    process.run(Settings())


if __name__ == "__main__":
    main()
