"""One generation from its claim to its end: what starts it, what stops it, and the one entry that ends it.

Whatever happens it ends by an entry (completion, error, cancelled), or in silence when somebody else may write now.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Literal, TypeAlias

import msgspec
import structlog

from tokenrelay.protocol import lifecycle
from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.events import Completion, Failure, Started, Terminal
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.runtime.tracing import Span
from tokenrelay.protocol.store import context, entries
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.wire import request
from tokenrelay.workers import routing
from tokenrelay.workers.append.log import Log, News
from tokenrelay.workers.conversation import Caller, Finish
from tokenrelay.workers.generation.answer import Answer
from tokenrelay.workers.generation.echoes import Echoes
from tokenrelay.workers.generation.output import Output, now_ms
from tokenrelay.workers.generation.resources import Resources
from tokenrelay.workers.generation.timing import Timing
from tokenrelay.workers.metrics import whose
from tokenrelay.workers.providers.base import ProviderError, Reason

MAX_TOLD: Final = 20
"""Failed attempts that the last event tells of: it must stay small."""

MIN_UNHEARD_S: Final = 4.0
"""An edge whose live feed is cut off for a moment is no viewer that left; nor is a viewer that its edge has sent
elsewhere, with the word to be back within a second (server/drain.py)."""

Why: TypeAlias = Literal["cancel", "unheard", "lost", "leaving", "between tokens", "total"]

log = structlog.get_logger()


class Generation:
    """One answer being written by this process."""

    def __init__(self, resources: Resources, claim: Claim, now: float, taken_at: float | None = None) -> None:
        self.stream_id = claim.stream_id
        self.epoch = claim.epoch
        self.log = Log(claim, resources.settings.retention_ms, self.hear, resources.writer.mark, resources.writer.ended)
        self.context = context.unpack(claim.context)
        self._using = resources
        self._claim = claim
        self._output = Output(self.log, claim.model, resources.settings.buffer_bytes)
        self._timing = Timing(resources.metrics, now if taken_at is None else taken_at, claim.age_ms / 1000)
        self._span = Span(self.context.traceparent)
        self._asked_at = now - claim.age_ms / 1000  # by the monotonic clock
        self._began_at = now
        self._unheard_since: float | None = None  # None while at least one edge listens, as far as we know
        self._grace_s = request.grace_s(claim.on_disconnect)
        self._answer: Answer | None = None  # None until somebody may be asked
        self._why: Why | None = None  # None unless it was stopped
        self._work: asyncio.Task[None] | None = None  # None before it runs

    def __repr__(self) -> str:
        return f"<Generation {self.log!r}{f' stopping: {self._why}' if self._why else ''}>"

    # -- stopping ------------------------------------------------------------------------------------------------------

    def stop(self, why: Why) -> None:
        """The first reason counts. The provider's call is closed on the way out."""
        if self._why is None and not self.log.has_end:
            self._why = why
            self._using.metrics.stopped.labels(why.replace(" ", "_")).inc()
            if self._work is not None:
                self._work.cancel()

    def hear(self, news: News) -> None:
        """What Redis says: of the log with each append, of the lease with each renewal."""
        if news.is_lost:
            log.warning("fenced", stream_id=self.stream_id, epoch=self.epoch)
            self._using.metrics.fenced.inc()
            self.stop("lost")
        elif news.is_cancelled:
            self.stop("cancel")
        if news.is_heard:
            self._unheard_since = None
        elif news.is_heard is not None and self._unheard_since is None:
            self._unheard_since = time.monotonic()
        self._output.moved()
        if self._timing.is_open and self.log.acked >= (self.log.told_id or 0):
            self._timing.acked(time.monotonic())

    def check(self, now: float) -> None:
        """A moment has passed: is it taking too long, is anybody still there?"""
        if now - self._began_at > self._using.settings.generation_timeout_s:
            self.stop("total")
        elif self._answer is not None and self._answer.is_silent(now):
            self.stop("between tokens")
        elif self._is_unheard(now):
            self.stop("unheard")

    def _is_unheard(self, now: float) -> bool:
        """True when the request wants an end after some time without viewers, and that time is over."""
        if self._grace_s is None or self._unheard_since is None:
            return False
        return now - self._unheard_since > max(self._grace_s, MIN_UNHEARD_S)

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when the end is in the log's hands, or when it is no longer ours to end. Never raises."""
        self._work = asyncio.current_task()
        self._begin_span()
        try:
            if self._why is not None:
                raise asyncio.CancelledError
            end: Terminal = self._completion(await self._write())
        except asyncio.CancelledError:
            if self._why is None:
                raise  # the process is being torn down
            if self._why == "lost" or (self._why == "leaving" and await self._requeued()):
                return
            end = self._stopped()
        except ProviderError as error:
            log.info("provider_failed", stream_id=self.stream_id, error_code=error.code, reason=error.reason)
            end = Failure(
                now_ms(), error.code, error.message, error.retryable, error.retry_after_s, self._failures,
                field=error.field,
            )  # fmt: skip
        except TokenrelayError as error:
            end = Failure(
                now_ms(), error.code, error.message, error.row.retryable, error.retry_after_s,
                field=error.fields.get("field"),
            )  # fmt: skip
        except Exception:
            log.exception("generation_failed", stream_id=self.stream_id)
            end = self._failure("INTERNAL_ERROR", "something went wrong here; it has been noted")
        await self._end(end)

    async def _write(self) -> Finish:
        using, asked = self._using, request.unpack(self._claim.request)
        route = routing.route(asked, using.catalogue, using.providers.keys(), using.circuits.vitals())
        self._output.label = route.label
        echoes = Echoes(using.store, self._claim.owner, using.settings.retention_ms)
        caller = self._caller(asked)
        self._answer = Answer(caller, asked, route, using, self._output, self._timing, self.context, echoes)
        if not self.log.last_id:  # an attempt before this one may have said so already
            self._output.event(Started(now_ms(), route.label, route.routing))
        return await self._answer.write()

    def _caller(self, asked: request.ChatRequest) -> Caller:
        return Caller(
            stream_id=self.stream_id,
            owner=self._claim.owner,
            attempt=self.epoch,
            deadline=time.time() + self._began_at - time.monotonic() + self._using.settings.generation_timeout_s,
            metadata=asked.metadata or {},
            preferences=asked.preferences or {},
        )

    async def _end(self, end: Terminal) -> None:
        if not self.log.is_closed:
            state = lifecycle.state_after(end)
            end = await self._timed(self._billed(end))
            self.log.end(entries.pack(end), state)
            self._using.metrics.stream_ended(end, self._choice)
            provider, model = whose(self._choice)
            log.info(
                "generation_ended", stream_id=self.stream_id, state=state, provider=provider, model=model,
                owner=self._claim.owner, transport=self.context.transport, **self._figures(end),
            )  # fmt: skip
        self._span.end(end.code if isinstance(end, Failure) else "")

    def _figures(self, end: Terminal) -> dict[str, Any]:
        """Of one answer, for the log."""
        ttft_s = self._timing.ttft_s
        # The wait in the queue is by Redis's clock: of an answer that took no time it may be the whole, and more.
        duration_s = max(time.monotonic() - self._asked_at, ttft_s or 0.0)
        figures: dict[str, Any] = {
            "duration_s": round(duration_s, 3),
            "ttft_s": None if ttft_s is None else round(ttft_s, 3),
        }
        if isinstance(end, Failure):
            return {**figures, "error_code": end.code}
        tokens = {"input_tokens": end.input_tokens, "output_tokens": end.output_tokens}
        return {**figures, **tokens, "finish_reason": end.finish_reason}

    async def settled(self) -> None:
        """Returns when the end is in Redis, or when nothing is ours to write any more; until then the lease is kept."""
        await self._output.settled()

    def _begin_span(self) -> None:
        """The wait that is over, and what begins now; calls of providers and tools are below it."""
        tracing, above, waited_s = self._using.tracing, self.context.traceparent, self._claim.age_ms / 1000
        tracing.span("queue wait", above, "consumer", waited_s).end()
        self._span = tracing.span(
            "generation", above, "consumer", stream_id=self.stream_id, request_id=self.context.request_id
        )
        self.context = msgspec.structs.replace(self.context, traceparent=self._span.traceparent)

    def _billed(self, end: Terminal) -> Terminal:
        """With what it used and cost, whatever the end is."""
        if self._answer is None:
            return end
        meter = self._answer.usage
        meter.close()
        if isinstance(end, Completion):
            used = meter.usage
            end = msgspec.structs.replace(end, input_tokens=used.input_tokens, output_tokens=used.output_tokens)
        return msgspec.structs.replace(end, usage=meter.fields(), cost_usd=meter.cost_usd)

    async def _timed(self, end: Terminal) -> Terminal:
        """With where the time went, if the caller wants to know; then the first token must have been acknowledged."""
        if not self.context.wants_timing or not isinstance(end, Completion):
            return end
        if self._timing.is_open:
            await self._using.writer.flushed(1.0)
        return msgspec.structs.replace(end, timing=self._timing.fields())

    # -- ends ----------------------------------------------------------------------------------------------------------

    @property
    def _choice(self) -> Choice | None:
        """Who writes, or was asked last. None: nobody yet."""
        return None if self._answer is None else self._answer.attempts.choice

    @property
    def _failures(self) -> list[dict[str, Any]] | None:
        """The attempts that came to nothing, as the last event tells them."""
        return None if self._answer is None else self._answer.attempts.failures[:MAX_TOLD] or None

    def _completion(self, finish: Finish) -> Completion:
        """Without what it used, see `_billed`."""
        answer, choice = self._answer, self._choice
        return Completion(
            at_ms=now_ms(),
            model=self._output.label,
            resolved_model=finish.resolved_model or ("" if choice is None else choice.upstream),
            provider="none" if choice is None else choice.model.provider,
            finish_reason=finish.reason,
            input_tokens=0,
            output_tokens=0,
            response_time_s=round(max(0.0, time.monotonic() - self._asked_at), 3),
            attempts=self._failures,
            left_out=None if answer is None else list(answer.attempts.left_out) or None,
        )

    def _stopped(self) -> Terminal:
        """The end of a generation that was stopped, by the reason."""
        match self._why:
            case "cancel" | "unheard":
                model = self._output.label if self._choice is None else self._choice.upstream
                return self._completion(Finish("cancelled", 0, 0, model))
            case "leaving":
                return self._failure("WORKER_LOST", "the worker was shut down; what it wrote is kept")
            case "between tokens":
                return self._timed_out("between_tokens", "the model fell silent in the middle of its answer")
            case _:
                return self._timed_out("total", "the answer took longer than is allowed")

    def _timed_out(self, reason: Reason, message: str) -> Failure:
        self._using.metrics.timed_out(self._choice, reason)
        log.info("timed_out", stream_id=self.stream_id, reason=reason)
        return self._failure("TIMEOUT", message)

    def _failure(self, code: str, message: str) -> Failure:
        return Failure(now_ms(), code, message, TABLE[code].retryable, attempts=self._failures)

    async def _requeued(self) -> bool:
        """Another worker may start it again if nobody has been told anything. False: it must be ended here."""
        return await self._using.writer.release(self.log)
