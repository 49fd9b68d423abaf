"""The asking side of arq: puts generations into its queue, takes back what nobody has begun. All an edge knows of arq.

Instead of `ArqRedis.enqueue_job` (four round trips, and a job could exist without its stream) one script makes the
stream and arq's job together; the job's bytes are arq's own (`arq.jobs.serialize_job`).
"""

from __future__ import annotations

import itertools
import math
import secrets
import time
from typing import Final

import msgpack
import msgspec
import structlog
from arq.jobs import serialize_job

from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.events import Completion, Failure
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import context, entries, partitions, scripts
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.store.scripts import Limits, NewStream, StartReply
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.server.settings import Settings
from tokenrelay.server.store import parts
from tokenrelay.server.store.log import Description
from tokenrelay.server.store.partitions import Partitions
from tokenrelay.server.store.redis import run
from tokenrelay.server.store.reserved_start import ReservedStart

JOB: Final = "generate"
JOB_TTL_MS: Final = 24 * 3600 * 1000
REAPED_AT_ONCE: Final = 200

log = structlog.get_logger()


def new_stream_id(tag: str = partitions.ONE_SERVER) -> str:
    """128 random bits: not to be guessed, never used again. In a cluster with its partition."""
    return f"{tag}-{secrets.token_hex(16)}" if tag else secrets.token_hex(16)


class Jobs:
    """Start, cancel, reap, webhooks that are due: what an edge writes, each as one script."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self.partitions = Partitions(store)
        self._parts = parts.Parts(store, self.partitions, settings.max_parts_stored_bytes)
        self._turns = itertools.count(secrets.randbelow(1_000))  # edges that began together are not in step
        self._reserved = ReservedStart(store, self.partitions, settings.retention_ms, JOB_TTL_MS)

    async def start(
        self,
        stream_id: str,
        owner: str,
        model: str,
        body: ChatRequest,
        key: str | None,
        limits: Limits,
        goes_with: Context,
        *,
        front: bytes = b"",
        chat_id: str | None = None,
        needs: str = "",
    ) -> StartReply:
        """Queue a generation, within the limits of its owner's key. `front` is kept with the log, for whoever reads it;
        `chat_id` leads to this stream from now on (`LogReader.of_chat`); `needs` says which workers may take it
        (`scripts.needs`).

        An Idempotency-Key used before attaches instead: the reply's outcome is `existing`.

        Raises TokenrelayError VALIDATION_ERROR (the key was used for another body), OVERLOADED, RATE_LIMIT,
        SERVICE_UNAVAILABLE; then nothing has been started.
        """
        packed = await parts.packed(body)
        async with self._parts.held(stream_id, owner, packed.blobs) as held:
            new = NewStream(
                stream_id=stream_id,
                owner=owner,
                model=model,
                request=packed.request,
                on_disconnect=body.on_disconnect,
                idempotency_key=key,
                fingerprint=packed.fingerprint,
                context=context.pack(goes_with),
                parts=held.name,
                front=front,
                metadata=msgspec.msgpack.encode(body.metadata) if body.metadata else b"",
                must_notify=bool(self._settings.webhook_url),
                chat_id=chat_id,
                needs=needs,
                turn=next(self._turns),
            )
            settings = self._settings
            job = serialize_job(JOB, (stream_id,), {}, None, int(time.time() * 1000), serializer=msgpack.packb)
            if self._store.names.is_cluster:
                reply = await self._reserved.start(new, limits, job)
            else:
                arguments = scripts.start(
                    new, limits, job=job, job_ttl_ms=JOB_TTL_MS, retention_ms=settings.retention_ms
                )
                reply = scripts.start_reply(await run(self._store, scripts.START, arguments))
            held.is_taken = reply.outcome == "started"
        if reply.outcome not in ("started", "existing"):
            raise _refusal(reply)
        return reply

    async def cancel(self, stream: Description) -> str:
        """Stop a generation for good, whatever it is doing. Gives the public state it is in now."""
        end = Completion(
            at_ms=_now_ms(),
            model=stream.model,
            resolved_model=stream.model,
            provider="none",
            finish_reason="cancelled",
            input_tokens=0,
            output_tokens=0,
            response_time_s=max(0.0, round(time.time() - stream.created_ms / 1000, 3)),
        )
        arguments = scripts.cancel(stream.stream_id, entries.pack(end), self._settings.retention_ms)
        state: bytes = await run(self._store, scripts.CANCEL, arguments)
        if not state:
            raise TokenrelayError("NOT_FOUND")
        if self._store.names.is_cluster and state == b"cancelled":
            await self.partitions.leave([(stream.stream_id, self._store.names.active(stream.owner))])
        return state.decode()

    async def forget(self, stream: Description) -> None:
        """Delete a stream: nobody finds it any more."""
        await run(self._store, scripts.FORGET, scripts.forget(stream.stream_id))

    async def due_webhooks(self, most: int, lease_ms: int) -> scripts.DueReply:
        """Ended streams whose webhook is ours to send until the lease is over."""
        taken, waiting, dropped = list[scripts.Ended](), 0, 0
        for tag in await self.partitions.with_ended():
            asked = scripts.due(most - len(taken), lease_ms)
            found = scripts.due_reply(await run(self._store, scripts.DUE, asked, tag))
            taken += found.taken
            waiting += found.waiting
            dropped += found.dropped
            if len(taken) >= most:
                break
        return scripts.DueReply(taken, waiting, dropped)

    async def notified(self, stream_id: str, again_ms: int | None) -> None:
        """A webhook is to be sent again in so many ms; None: it is done with, and so is the log past its retention."""
        arguments = scripts.notified(stream_id, again_ms, self._settings.retention_ms)
        await run(self._store, scripts.NOTIFIED, arguments, partitions.tag_of(stream_id))

    async def reap(self) -> scripts.ReapReply:
        """End what is overdue: generations whose worker is gone, and those that nobody takes."""
        now = _now_ms()
        lost = Failure(now, "WORKER_LOST", "the worker that wrote this answer is gone; what it wrote is kept", True)
        late = Failure(now, "TIMEOUT", "no worker took this in time", TABLE["TIMEOUT"].retryable, 10)
        arguments = scripts.reap(
            REAPED_AT_ONCE,
            entries.pack(lost),
            entries.pack(late),
            int(self._settings.queue_timeout_s * 1000),
            self._settings.retention_ms,
        )
        return await self.partitions.reap(arguments)


def _refusal(reply: StartReply) -> TokenrelayError:
    """Why nothing was started."""
    match reply.outcome:
        case "overloaded":
            return TokenrelayError(
                "OVERLOADED", f"{reply.bound} generations wait already; try again later", retry_after=5
            )
        case "lost":
            return TokenrelayError(
                "SERVICE_UNAVAILABLE", "what came with the request is no longer stored; send it again", retry_after=1
            )
        case "share":
            issue = f"{reply.bound} generations of this key wait already, its share of the queue; try again later"
            return TokenrelayError("OVERLOADED", issue, retry_after=5)
        case "busy":
            issue = f"this key has {reply.bound} streams under way, as many as it may; end one or wait for one"
            return TokenrelayError("RATE_LIMIT", issue, retry_after=1, limit=reply.bound, remaining=0, reset=1)
        case "limited":
            seconds = max(1, math.ceil(reply.retry_ms / 1000))
            issue = f"this key may start {reply.bound} streams a minute"
            return TokenrelayError(
                "RATE_LIMIT", issue, retry_after=seconds, limit=reply.bound, remaining=0, reset=seconds
            )
        case _:
            issue = "this key was used for another request"
            return TokenrelayError(
                "VALIDATION_ERROR", f"Idempotency-Key: {issue}", field="Idempotency-Key", issue=issue
            )


def _now_ms() -> int:
    return int(time.time() * 1000)
