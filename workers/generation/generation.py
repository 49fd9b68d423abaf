"""One generation from its claim to its end: has a maker asked, runs tools, appends every event; chooses no maker.

Whatever happens it ends by an entry (completion, error, cancelled), or in silence when somebody else may write now.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
import structlog

from tokenrelay.protocol import lifecycle
from tokenrelay.protocol.errors import TABLE, TokenrelayError
from tokenrelay.protocol.events import Completion, Event, Failure, Started, Terminal, ToolCall, ToolResult
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.runtime.tracing import Span
from tokenrelay.protocol.store import context, entries
from tokenrelay.protocol.store.scripts import Claim
from tokenrelay.protocol.wire import request
from tokenrelay.workers import routing
from tokenrelay.workers.append.log import Log
from tokenrelay.workers.conversation import Delta, Finish, Message, ToolUse
from tokenrelay.workers.generation.attempts import Attempts, close
from tokenrelay.workers.generation.timing import Timing
from tokenrelay.workers.metrics import SAMPLED, whose
from tokenrelay.workers.providers.base import ProviderError, Reason
from tokenrelay.workers.routing import Route
from tokenrelay.workers.tools.base import Outcome
from tokenrelay.workers.tools.registry import Selection

if TYPE_CHECKING:
    from tokenrelay.workers.dispatch.leases import House

MAX_ROUNDS: Final = 8
"""How often a model may call tools in one answer."""

MAX_CALLS: Final = 32
"""How many tools a model may call side by side; each may take the whole time a tool has."""

MAX_TOLD: Final = 20
"""Failed attempts that the last event tells of: it must stay small."""

MIN_UNHEARD_S: Final = 4.0
"""An edge whose live feed is cut off for a moment is no viewer that left; nor is a viewer that its edge has sent
elsewhere, with the word to be back within a second (server/drain.py)."""

Why: TypeAlias = Literal["cancel", "unheard", "lost", "leaving", "between tokens", "total"]

log = structlog.get_logger()


class Generation:
    """One answer being written by this process."""

    def __init__(self, house: House, claim: Claim, now: float, taken_at: float | None = None) -> None:
        self.stream_id = claim.stream_id
        self.epoch = claim.epoch
        self.log = Log(claim, house.settings.retention_ms, self, house.writer.mark)
        self._house = house
        self.context = context.unpack(claim.context)
        self._timing = Timing(house.metrics, now if taken_at is None else taken_at, claim.age_ms / 1000)
        self._span = Span(self.context.traceparent)
        self._claim = claim
        self._asked_at = now - claim.age_ms / 1000  # by the monotonic clock
        self._began_at = now
        self._piece_at = now  # when the provider last gave something
        self._is_writing = False  # from a round's first piece to its end; before that `Attempts` has its own patience
        self._unheard_since: float | None = None  # None while at least one edge listens, as far as we know
        self._grace_s = request.grace_s(claim.on_disconnect)
        self._attempts: Attempts | None = None  # None until somebody may be asked
        self._label = claim.model
        self._input_tokens = 0
        self._output_tokens = 0
        self._written = 0  # tokens of the round under way, counted by us
        self._why: Why | None = None  # None unless it was stopped
        self._work: asyncio.Task[None] | None = None  # None before it runs
        self._room = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Generation {self.log!r}{f' stopping: {self._why}' if self._why else ''}>"

    # -- stopping
    # --------------------------------------------------------------------------------------------------------

    def stop(self, why: Why) -> None:
        """The first reason counts. The provider's call is closed on the way out."""
        if self._why is None and not self.log.has_end:
            self._why = why
            self._house.metrics.stopped.labels(why.replace(" ", "_")).inc()
            if self._work is not None:
                self._work.cancel()

    def log_lost(self) -> None:
        log.warning("fenced", stream_id=self.stream_id, epoch=self.epoch)
        self._house.metrics.fenced.inc()
        self.stop("lost")

    def log_cancelled(self) -> None:
        self.stop("cancel")

    def log_heard(self, listeners: int) -> None:
        self.heard(listeners > 0)

    def log_acked(self) -> None:
        self._room.set()
        if self._timing.is_open:
            self._timing.acked(time.monotonic())

    def heard(self, is_heard: bool) -> None:
        """Whether any edge listens, that is, whether there is a viewer anywhere."""
        if is_heard:
            self._unheard_since = None
        elif self._unheard_since is None:
            self._unheard_since = time.monotonic()

    def check(self, now: float) -> None:
        """A second has passed: is it taking too long, is anybody still there?"""
        settings = self._house.settings
        if now - self._began_at > settings.generation_timeout_s:
            self.stop("total")
        elif self._is_writing and now - self._piece_at > settings.between_tokens_timeout_s:
            self.stop("between tokens")
        elif self._is_unheard(now):
            self.stop("unheard")

    def _is_unheard(self, now: float) -> bool:
        """True when the request wants an end after some time without viewers, and that time is over."""
        if self._grace_s is None or self._unheard_since is None:
            return False
        return now - self._unheard_since > max(self._grace_s, MIN_UNHEARD_S)

    # -- writing
    # ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when the end is in the log's hands, or when it is no longer ours to end. Never raises."""
        self._work = asyncio.current_task()
        self._begin_span()
        try:
            if self._why is not None:
                raise asyncio.CancelledError
            end: Terminal = await self._answer()
        except asyncio.CancelledError:
            if self._why is None:
                raise  # the process is being torn down
            if self._why == "lost" or (self._why == "leaving" and await self._hand_back()):
                return
            end = self._stopped()
        except ProviderError as error:
            log.info("provider_failed", stream_id=self.stream_id, error_code=error.code, reason=error.reason)
            end = Failure(_now_ms(), error.code, error.message, error.retryable, error.retry_after_s, self._failures)
        except TokenrelayError as error:
            end = Failure(_now_ms(), error.code, error.message, error.row.retryable, error.retry_after_s)
        except Exception:
            log.exception("generation_failed", stream_id=self.stream_id)
            end = self._failure("INTERNAL_ERROR", "something went wrong here; it has been noted")
        if not self.log.is_closed:
            self.log.end(entries.pack(await self._timed(end)), lifecycle.state_after(end))
            self._house.metrics.stream_ended(end, self._choice)
            provider, model = whose(self._choice)
            state = lifecycle.state_after(end)
            log.info("generation_ended", stream_id=self.stream_id, state=state, provider=provider, model=model)
        self._span.end(end.code if isinstance(end, Failure) else "")

    def _begin_span(self) -> None:
        """The wait that is over, and what begins now; calls of makers and tools are below it."""
        tracing, above, waited_s = self._house.tracing, self.context.traceparent, self._claim.age_ms / 1000
        tracing.span("queue wait", above, "consumer", waited_s).end()
        self._span = tracing.span(
            "generation", above, "consumer", stream_id=self.stream_id, request_id=self.context.request_id
        )
        self.context = msgspec.structs.replace(self.context, traceparent=self._span.traceparent)

    async def _timed(self, end: Terminal) -> Terminal:
        """With where the time went, if the caller wants to know; then the first token must have been acknowledged."""
        if not self.context.wants_timing or not isinstance(end, Completion):
            return end
        if self._timing.is_open:
            await self._house.writer.flushed(1.0)
        return msgspec.structs.replace(end, timing=self._timing.fields())

    async def settled(self) -> None:
        """Returns when the end is in Redis, or when nothing is ours to write any more; until then the lease is kept."""
        while not self.log.is_closed:
            self._room.clear()
            await self._room.wait()

    async def _answer(self) -> Completion:
        asked = request.unpack(self._claim.request)
        house = self._house
        route = routing.route(asked, house.catalogue, house.providers.keys(), house.health.vitals())
        attempts = self._attempts = Attempts(
            self.stream_id, asked, route,
            providers=house.providers, health=house.health, redis=house.redis, settings=house.settings,
            metrics=house.metrics, tracing=house.tracing, context=self.context,
        )  # fmt: skip
        self._label = route.label
        if not self.log.last_id:  # an attempt before this one may have said so already
            self._append(Started(_now_ms(), self._label, route.routing))
        tools = await house.tools.select(asked)
        messages = [_message(turn) for turn in asked.conversation]
        for _ in range(MAX_ROUNDS):
            text, calls, finish = await self._round(attempts, route, messages, tools)
            if finish.reason != "tool_calls" or not calls:
                return self._completion(finish)
            results = await self._call_tools(calls, tools)
            if len(results) < len(calls):
                return self._completion(finish)  # the rest are the caller's own functions: the answer ends with them
            messages = [*messages, Message("assistant", text, tool_calls=tuple(calls)), *results]
        raise ProviderError(f"the model called tools in more than {MAX_ROUNDS} rounds", retryable=False)

    async def _round(
        self, attempts: Attempts, route: Route, messages: list[Message], tools: Selection
    ) -> tuple[str, list[ToolUse], Finish]:
        """One call that is answered: its tokens go to the log as they come. Gives the text beside its tool calls."""
        calls: list[ToolUse] = []
        texts: list[str] = []  # kept only where a tool may be called, for the next round
        self._written = 0
        opened_at = time.monotonic()
        opened = await attempts.open(messages, tools)
        self._timing.answered(opened_at, opened.asked_at, time.monotonic())
        gap = self._house.metrics.gap.labels(*whose(opened.choice))
        self._label = route.label_of(opened.choice)
        keeps, most = bool(tools.specs), self._house.settings.buffer_bytes
        piece, step = opened.first, opened.pieces.__anext__  # `async for`, but for the first piece, which is here
        self._is_writing = True
        try:
            while True:
                now = time.monotonic()
                if not (self._written + 1) & SAMPLED:
                    gap.observe(now - self._piece_at)
                self._piece_at = now
                if type(piece) is Delta:
                    self._token(piece.text)
                    if keeps:
                        texts.append(piece.text)
                    if self.log.unacked_bytes > most:
                        await self._wait_for_room(most)
                elif type(piece) is ToolUse:
                    calls.append(piece)
                elif type(piece) is Finish:
                    self._input_tokens += piece.input_tokens
                    self._output_tokens += piece.output_tokens
                    self._written = 0
                    return "".join(texts), calls, piece
                piece = await step()
        except StopAsyncIteration:
            raise ProviderError("the model stopped without saying why", retryable=True) from None
        except ProviderError as error:
            attempts.broke_off(error)
            attempts.over(error.code)
            raise
        finally:
            self._is_writing = False
            attempts.over()
            await close(opened.pieces)

    def _token(self, text: str) -> None:
        self._written += 1
        at_ms = _now_ms()
        if len(text) > entries.MAX_TOKEN_CHARACTERS:
            for start in range(0, len(text), entries.MAX_TOKEN_CHARACTERS):
                self.log.append(_packed_token(at_ms, self._label, text[start : start + entries.MAX_TOKEN_CHARACTERS]))
        elif text:
            self.log.append(_packed_token(at_ms, self._label, text))

    async def _wait_for_room(self, most: int) -> None:
        """Redis has been away for so long that the buffer is full: now the model waits."""
        log.warning("buffer_full", stream_id=self.stream_id, bytes=self.log.unacked_bytes)
        self._is_writing = False  # it is not the model that is silent
        while self.log.unacked_bytes > most:
            self._room.clear()
            await self._room.wait()  # bounded by the generation's total time
        self._piece_at, self._is_writing = time.monotonic(), True

    async def _call_tools(self, calls: list[ToolUse], tools: Selection) -> list[Message]:
        """Run ours side by side; each call and each result is an event at the moment it happens."""
        for use in calls:
            self._append(ToolCall(_now_ms(), self._label, use.call_id, use.name, use.arguments))
        ours = [use for use in calls if use.name not in tools.own]
        return await asyncio.gather(*(self._call_tool(use, at < MAX_CALLS, tools) for at, use in enumerate(ours)))

    async def _call_tool(self, use: ToolUse, is_run: bool, tools: Selection) -> Message:
        if not is_run:
            outcome = Outcome(f"at most {MAX_CALLS} calls at once", failed=True)
        elif self._may_call(use.name, tools):
            outcome = await self._run_tool(use)
        else:
            outcome = Outcome(f"there is no tool called {use.name[:80]!r}", failed=True)
        self._append(
            ToolResult(_now_ms(), self._label, use.call_id, use.name, use.arguments, outcome.text, outcome.failed)
        )
        return Message("tool", outcome.text, tool_call_id=use.call_id)

    async def _run_tool(self, use: ToolUse) -> Outcome:
        house, began_at = self._house, time.monotonic()
        span = house.tracing.span("tool call", self.context.traceparent, tool=house.tools.label(use.name))
        try:
            outcome = await house.tools.call(use.name, use.arguments)
        except BaseException:
            span.end("cancelled")
            raise
        span.end("failed" if outcome.failed else "")
        house.metrics.tool_called(house.tools.label(use.name), outcome.failed, time.monotonic() - began_at)
        return outcome

    def _may_call(self, name: str, tools: Selection) -> bool:
        """What was not offered is not run, whatever a model makes up. The scripted one's script is the caller's."""
        is_scripted = self._choice is not None and self._choice.model.dialect == "scripted"
        return is_scripted or any(spec.name == name for spec in tools.specs)

    def _append(self, event: Event) -> None:
        raw = entries.pack(event)
        if len(raw) > entries.MAX_ENTRY_BYTES:
            raise ProviderError("the model's tool call is too large", retryable=False)
        self.log.append(raw)

    # -- ends
    # ------------------------------------------------------------------------------------------------------------

    @property
    def _choice(self) -> Choice | None:
        """Who writes, or was asked last. None: nobody yet."""
        return None if self._attempts is None else self._attempts.choice

    @property
    def _failures(self) -> list[dict[str, Any]] | None:
        """The attempts that came to nothing, as the last event tells them."""
        return None if self._attempts is None else self._attempts.failures[:MAX_TOLD] or None

    def _completion(self, finish: Finish) -> Completion:
        choice = self._choice
        return Completion(
            at_ms=_now_ms(),
            model=self._label,
            resolved_model=finish.resolved_model or ("" if choice is None else choice.upstream),
            provider="none" if choice is None else choice.model.provider,
            finish_reason=finish.reason,
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            response_time_s=round(max(0.0, time.monotonic() - self._asked_at), 3),
            attempts=self._failures,
            left_out=None if self._attempts is None else list(self._attempts.left_out) or None,
        )

    def _stopped(self) -> Terminal:
        """The end of a generation that was stopped, by the reason."""
        match self._why:
            case "cancel" | "unheard":
                self._output_tokens += self._written
                model = self._label if self._choice is None else self._choice.upstream
                return self._completion(Finish("cancelled", 0, 0, model))
            case "leaving":
                return self._failure("WORKER_LOST", "the worker was shut down; what it wrote is kept")
            case "between tokens":
                return self._timed_out("between_tokens", "the model fell silent in the middle of its answer")
            case _:
                return self._timed_out("total", "the answer took longer than is allowed")

    def _timed_out(self, reason: Reason, message: str) -> Failure:
        self._house.metrics.timed_out(self._choice, reason)
        log.info("timed_out", stream_id=self.stream_id, reason=reason)
        return self._failure("TIMEOUT", message)

    def _failure(self, code: str, message: str) -> Failure:
        return Failure(_now_ms(), code, message, TABLE[code].retryable, attempts=self._failures)

    async def _hand_back(self) -> bool:
        """Another worker may start it again if nobody has been told anything. False: it must be ended here."""
        if self.log.last_id > lifecycle.TOLD_NOTHING:
            return False
        released = await self._house.release(self)
        if released:
            self.log.is_closed = True
        return released


def _message(turn: request.Message) -> Message:
    """A turn of the caller's, with the calls of their own functions and what those gave."""
    uses = tuple(ToolUse(call.id, call.function.name, call.function.parsed) for call in turn.tool_calls or ())
    return Message(turn.role, turn.content or "", uses, turn.tool_call_id)


def _packed_token(at_ms: int, label: str, text: str) -> bytes:
    try:
        return entries.pack_token(at_ms, label, text)
    except UnicodeEncodeError:  # half of a surrogate pair: no UTF-8 has it, so no client could be told
        return entries.pack_token(at_ms, label, text.encode("utf-8", "replace").decode())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
