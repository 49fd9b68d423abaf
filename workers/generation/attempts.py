"""Asks one model after the other until one begins to answer; knows no log and no tool.

What fails before its first output is seen by nobody: the next candidate gets the same history. From the first
output on the answer is that model's, whatever becomes of it. Thinking is no output: it only keeps the wait open.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from tokenrelay.protocol import events
from tokenrelay.protocol.models import scripted
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.runtime.tracing import Span
from tokenrelay.protocol.store.context import Context
from tokenrelay.protocol.wire.request import ChatRequest
from tokenrelay.workers.conversation import Caller, Counted, Message, ModelRequest, Piece, Progress, Thinking, ToolInput
from tokenrelay.workers.generation.resources import Resources
from tokenrelay.workers.metrics import whose
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.routing import Route
from tokenrelay.workers.routing.fallback_policy import FallbackPolicy, Limits
from tokenrelay.workers.tools.registry import Selection

log = structlog.get_logger()


class Opened(msgspec.Struct, frozen=True):
    """A call that has given its first piece of output. Whoever has it closes `pieces`."""

    choice: Choice
    first: Piece
    pieces: AsyncIterator[Piece]
    asked_at: float  # this model, by the monotonic clock


AtWork: TypeAlias = Callable[[Choice, Piece], Awaitable[None]]
"""Hears what a model gives before its first output: thinking, arguments of tools, signs of life."""

NO_OUTPUT: Final = (Thinking, ToolInput, Progress, Counted)

CACHE_HEAD: Final = 4_096
"""So much of the first message tells apart what may share a prompt cache."""

THINKING_WAITS: Final = 2.0
"""A row that thinks has so many times as long to begin: some providers tell nothing of it while it lasts."""

PIECES_A_TURN: Final = 32
"""A model that writes without pause lets everybody else have a turn of the event loop after so many pieces: the
leases are renewed on it."""


class Attempts:
    """The calls of one generation. `failures` is told in its last event."""

    def __init__(
        self, asked: ChatRequest, route: Route, resources: Resources, context: Context, caller: Caller
    ) -> None:
        settings = resources.settings
        self.choice = route.choice  # who was asked last
        self.failures: list[dict[str, Any]] = []
        self.left_out: tuple[str, ...] = ()  # what the one who was asked last was not told
        self._asked = asked
        self._using = resources
        self._context = context
        self._caller = caller
        self._cache_key = cache_key(caller.owner, asked)
        self._choices = (route.choice, *route.others)
        self._policy = FallbackPolicy(self._choices, Limits(settings.max_attempts, settings.first_token_budget_s))
        self._errors: list[ProviderError] = []  # of the round under way
        self._first_asked: Choice | None = None  # in the round under way; None before it
        self._span = Span("")  # the call that is open

    def __repr__(self) -> str:
        return f"<Attempts {self.choice.model.id} | {len(self.failures)} failed | {self._policy!r}>"

    async def open(self, messages: Sequence[Message], tools: Selection, at_work: AtWork) -> Opened:
        """Whoever gives output first. Raises ProviderError when nobody does within the limits."""
        self._errors = []
        self._first_asked = None
        self._policy.begin(time.monotonic(), self.choice)
        while True:
            step = self._policy.next(time.monotonic(), self._is_resting)
            if step is None:
                raise self._given_up()
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif await self._using.circuits.may_ask(self._using.store, step):
                self.choice = step
                self._first_asked = self._first_asked or step
                began_at = time.monotonic()
                try:
                    return await self._ask(step, messages, tools, at_work)
                except ProviderError as error:
                    self._note(step, error, time.monotonic() - began_at)
                except BaseException:
                    self._using.circuits.dropped(step)
                    raise

    def broke_off(self, error: ProviderError) -> None:
        """The call that was open has failed in the middle of its answer; `over` follows."""
        self._span.end(error.code)
        self._using.metrics.timed_out(self.choice, error.reason)
        if error.is_ill:
            self._using.circuits.failed(self.choice)

    def over(self) -> None:
        """The call that was open has ended."""
        self._span.end()

    async def _ask(self, choice: Choice, messages: Sequence[Message], tools: Selection, at_work: AtWork) -> Opened:
        by, row = whose(choice)
        span = self._using.tracing.span("provider call", self._context.traceparent, "client", provider=by, model=row)
        context = msgspec.structs.replace(self._context, traceparent=span.traceparent)
        provider = self._using.providers[choice.model.source]
        request = model_request(self._asked, choice, messages, tools, context, self._cache_key)
        if choice.model.dialect == "python":
            again = sum(failure["model"] == row for failure in self.failures)
            caller = msgspec.structs.replace(self._caller, attempt=self._caller.attempt + again)
            request = msgspec.structs.replace(request, caller=caller)
        self.left_out = _as_asked(provider.left_out(request), self._asked)
        if tools.specs and not request.tools:
            self.left_out = (*self.left_out, "tools")
        self.left_out = (*self.left_out, *self._asked.not_taken)
        pieces = provider.stream(request)
        began_at = time.monotonic()
        first: Piece | None = None  # None until it has come
        try:
            first = await self._first(choice, pieces, began_at, at_work)
        except TimeoutError:
            raise ProviderError(
                "the model did not begin to answer in time", code="TIMEOUT", retryable=True, reason="first_token"
            ) from None
        except StopAsyncIteration:
            raise ProviderError("the model stopped without saying why", retryable=True) from None
        finally:
            if first is None:
                span.end("failed")
                await close(pieces)
        self._span = span
        self._using.metrics.answered(self._first_asked or choice, choice, time.monotonic() - began_at)
        return Opened(choice, first, pieces, began_at)

    async def _first(self, choice: Choice, pieces: AsyncIterator[Piece], began_at: float, at_work: AtWork) -> Piece:
        """The first piece of output. What comes before it keeps the wait open; only pings do not beyond the budget.

        Raises TimeoutError, StopAsyncIteration, ProviderError.
        """
        now = asyncio.get_running_loop().time
        wait_s = self._using.settings.first_token_timeout_s * (THINKING_WAITS if choice.model.thinks else 1.0)
        is_at_work = False
        count = 0
        try:
            async with asyncio.timeout(None) as waiting:
                while True:
                    left_s = wait_s if is_at_work else min(wait_s, self._policy.left_s(time.monotonic()))
                    waiting.reschedule(now() + left_s)
                    piece = await anext(pieces)
                    if not is_at_work and type(piece) is not Progress:
                        is_at_work = True
                        self._using.circuits.succeeded(choice, (time.monotonic() - began_at) * 1000)
                    if type(piece) not in NO_OUTPUT:
                        return piece
                    waiting.reschedule(None)  # what follows is no wait for the model
                    await at_work(choice, piece)
                    count += 1
                    if not count % PIECES_A_TURN:
                        await asyncio.sleep(0)
        finally:
            if is_at_work:
                self._policy.extend(time.monotonic() - began_at)

    def _note(self, choice: Choice, error: ProviderError, seconds: float) -> None:
        model = choice.model
        self._using.metrics.attempt_failed(choice, error)
        self._errors.append(error)
        self.failures.append(
            events.attempt(model.id, model.provider, error.code, error.message, round(max(0.0, seconds), 3))
        )
        self._policy.failed(choice, error, time.monotonic(), random.random())  # noqa: S311
        if error.is_ill:
            self._using.circuits.failed(choice)
        else:
            self._using.circuits.dropped(choice)
        # A key that is not taken stays so until somebody sees to it.
        tell = log.error if error.blame == "key" else log.warning
        tell(
            "credentials_refused" if error.blame == "key" else "attempt_failed",
            model=model.id,
            provider=model.provider,
            error_code=error.code,
            reason=error.reason,
            blame=error.blame,
        )

    def _is_resting(self, choice: Choice) -> bool:
        return self._using.circuits.rest_s(choice) > 0

    def _given_up(self) -> ProviderError:
        """What the client hears: the first failure that may pass, else the first; or that all of them rest."""
        if self._errors:
            return next((error for error in self._errors if error.retryable), self._errors[0])
        wait_s = min(self._using.circuits.rest_s(choice) for choice in self._choices)
        return ProviderError(
            "the model's provider has failed too often lately and is given a rest",
            code="SERVICE_UNAVAILABLE",
            retryable=True,
            retry_after_s=float(max(1, round(wait_s))),
        )


async def close(pieces: AsyncIterator[Piece]) -> None:
    """Closes the call, as far as it can be closed."""
    end = getattr(pieces, "aclose", None)
    if end is not None:
        await end()


def model_request(
    asked: ChatRequest,
    choice: Choice,
    messages: Sequence[Message],
    tools: Selection,
    context: Context,
    cache_key: str = "",
) -> ModelRequest:
    """What is asked, as this candidate is asked it."""
    name = asked.model or ""
    return ModelRequest(
        model=name if choice.model.dialect == "scripted" and scripted.is_scripted(name) else choice.upstream,
        messages=messages,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=asked.stops,
        seed=asked.seed,
        tools=tools.specs if choice.model.tools else (),
        request_id=context.request_id,
        traceparent=context.traceparent,
        effort=asked.effort,
        response_format=None if asked.response_format is None else msgspec.to_builtins(asked.response_format),
        tool_choice=None if asked.tool_choice is None else msgspec.to_builtins(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        cache_key=cache_key,
        shows_thinking=asked.shows("thinking"),
    )


def cache_key(owner: str, asked: ChatRequest) -> str:
    """The same for requests of one owner that begin alike; tells neither."""
    first = asked.conversation[0].content
    begins = first if isinstance(first, str) else ""
    text = f"{owner}\0{begins[:CACHE_HEAD]}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _as_asked(left_out: Sequence[str], asked: ChatRequest) -> tuple[str, ...]:
    """By the names that the caller used."""
    effort = "reasoning" if asked.reasoning_effort is None else "reasoning_effort"
    return tuple(effort if name == "effort" else name for name in left_out)
