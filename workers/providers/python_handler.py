"""A handler of one's own as a provider: it is asked with an `Ask`, and its parts become the pieces of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import structlog

from tokenrelay.agent import Ask, Fail, Message, ToolOutput
from tokenrelay.protocol.errors import TABLE
from tokenrelay.workers.conversation import Caller, Finish, ModelRequest, Piece, ToolRun
from tokenrelay.workers.providers.base import EFFORTS, Accepts, Blame, ProviderError, left_out
from tokenrelay.workers.providers.chat_completions_request import encode_request
from tokenrelay.workers.providers.handler_import import Handler, is_async
from tokenrelay.workers.providers.handler_parts import Translator, plain, sentence_of
from tokenrelay.workers.providers.handler_thread import Channel, HandlerThread, resolve
from tokenrelay.workers.providers.optional_fields import OptionalFields

PARTS_A_TURN: Final = 32
"""A handler that yields without pause lets others have a turn of the loop after so many parts."""

Item: TypeAlias = Piece | ProviderError

log = structlog.get_logger()


class PythonHandler:
    """One row's handler. `name` is the row's provider, `spec` its `handler`."""

    def __init__(self, name: str, spec: str, handler: Handler, thread: HandlerThread, *, tools: bool) -> None:
        self.name = name
        self._spec = spec
        self._handler = handler
        self._thread = thread
        self._accepts = Accepts(
            temperature=False, top_p=False, stop=False, seed=False, response_format=False, tool_choice=False,
            parallel_tool_calls=False, tools=tools, efforts=EFFORTS,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<PythonHandler {self._spec}>"

    def left_out(self, request: ModelRequest) -> tuple[str, ...]:
        """What an `Ask` has no place for."""
        return left_out(request, self._accepts)

    async def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        channel: Channel[Item] = Channel()
        run = _Run(self._spec, self._handler, _ask(request, channel), channel, self._thread, request.model)
        cancel = self._thread.begin(self._spec, run.work())
        try:
            while True:
                for item in await channel.take():
                    if isinstance(item, ProviderError):
                        raise item
                    yield item
                    if type(item) is Finish:
                        return
        finally:
            channel.close()
            cancel()

    async def aclose(self) -> None:
        """The thread is the process's."""


def _ask(request: ModelRequest, channel: Channel[Item]) -> Ask:
    body = encode_request(request, Accepts(), OptionalFields())
    caller = Caller() if request.caller is None else request.caller

    async def run_tool(name: str, arguments: Mapping[str, Any]) -> ToolOutput:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[ToolOutput] = loop.create_future()

        def give(output: ToolOutput) -> None:
            if not result.done():
                result.set_result(output)

        def answer(text: str, failed: bool) -> None:
            with contextlib.suppress(RuntimeError):  # the handler and its loop have gone
                loop.call_soon_threadsafe(give, ToolOutput(text, failed))

        if type(name) is not str or not name:  # a handler is anybody's code
            raise ValueError(f"a tool has a name, a str, not {name!r:.80}")

        def give_up() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(result.cancel)

        # A handler in a thread of its own is cancelled by nobody else; it would wait, and keep its thread, for ever.
        channel.on_close(give_up)
        channel.put(ToolRun(f"call_{secrets.token_hex(6)}", name, plain(arguments), answer))
        return await result

    return Ask(
        messages=[Message(message) for message in body["messages"]],
        max_tokens=request.max_tokens,
        reasoning=None if request.effort is None else {"effort": request.effort},
        tools=body.get("tools", []),
        preferences=caller.preferences,
        metadata=caller.metadata,
        stream_id=caller.stream_id,
        request_id=request.request_id,
        owner=caller.owner,
        attempt=caller.attempt,
        deadline=caller.deadline,
        run_tool=run_tool,
    )


class _Run:
    """One call of a handler, from its start to its end; all of it on the handlers' thread, or on one of its own."""

    def __init__(
        self, spec: str, handler: Handler, ask: Ask, channel: Channel[Item], thread: HandlerThread, upstream: str
    ) -> None:
        self._spec = spec
        self._handler = handler
        self._ask = ask
        self._channel = channel
        self._thread = thread
        self._translate = Translator(upstream)
        self._count = 0
        self._finish: Finish | None = None  # None unless it has said how it ends

    async def work(self) -> None:
        """Its last item is a Finish or an error. Never raises, but when it is cancelled."""
        end: Item
        try:
            await self._drive()
            end = self._finish or self._translate.finish()
        except Fail as fail:
            # Whoever may answer in its place does; only what may pass is asked of this handler again.
            code = fail.code if fail.code in TABLE else "PROVIDER_ERROR"
            if code != fail.code:
                log.warning("handler_failed_with_unknown_code", handler=self._spec, error_code=str(fail.code)[:80])
            blame: Blame = "provider" if fail.retryable else "model"
            end = ProviderError(sentence_of(fail.sentence), code=code, retryable=fail.retryable, blame=blame)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._channel.is_closed:
                raise
            log.exception("handler_failed", handler=self._spec, error=type(error).__name__)
            message = "something went wrong here; it has been noted"
            end = ProviderError(message, code="INTERNAL_ERROR", retryable=False, blame="model")
        self._channel.put(end)

    async def _drive(self) -> None:
        if is_async(self._handler):
            result = self._handler(self._ask)
        else:
            result = await self._thread.in_thread(self._call)
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "__anext__") or hasattr(result, "__aiter__"):
            await self._read(result)
        elif _is_iterable(result):  # what a coroutine gave: a function's own have been read in its thread
            await self._thread.in_thread(lambda: self._read_sync(iter(result)))
        elif result is not None:
            self._put(result)

    def _put(self, part: Any) -> bool:
        """False: it was the last one."""
        piece = self._translate.piece(part)
        if isinstance(piece, Finish):
            self._finish = piece
            return False
        self._channel.put(piece)
        self._count += 1
        return True

    # -- on the loop ---------------------------------------------------------------------------------------------------

    async def _read(self, parts: Any) -> None:
        parts = parts if hasattr(parts, "__anext__") else aiter(parts)
        while True:
            try:
                part = await anext(parts)
            except StopAsyncIteration:
                return
            try:
                if not self._put(part):
                    break
                await self._turn()
            except asyncio.CancelledError as cancelled:  # it stands at its yield: there it is told
                await _throw(parts, cancelled)
                raise
            except BaseException:
                await _close(parts)
                raise
        await _close(parts)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        room: asyncio.Future[None] = loop.create_future()

        def has_room() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, room)

        if self._channel.is_full(has_room):
            await room
        elif not self._count % PARTS_A_TURN:
            await asyncio.sleep(0)

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _call(self) -> Any:
        """A function's result; the parts of a generator are told here, one after the other."""
        result = self._handler(self._ask)
        if _is_iterable(result) and not hasattr(result, "__aiter__"):
            return self._read_sync(iter(result))
        return result

    def _read_sync(self, parts: Iterator[Any]) -> None:
        has_room = threading.Event()
        close: Callable[[], None] = getattr(parts, "close", lambda: None)
        try:
            for part in parts:
                if self._channel.is_closed or not self._put(part):
                    break
                has_room.clear()
                if self._channel.is_full(has_room.set):
                    has_room.wait()
        finally:
            close()


def _is_iterable(result: Any) -> bool:
    return hasattr(result, "__iter__") and not isinstance(result, (str, bytes, dict))


async def _throw(parts: Any, error: BaseException) -> None:
    """Into a generator at its yield. What it yields after that nobody gets."""
    if hasattr(parts, "athrow"):
        with contextlib.suppress(StopAsyncIteration, asyncio.CancelledError):
            await parts.athrow(error)
    await _close(parts)


async def _close(parts: Any) -> None:
    if hasattr(parts, "aclose"):
        await parts.aclose()
