"""A task that a fault ends is logged with its cause, counted, started anew; one that is ended on purpose is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from tokenrelay.protocol.runtime import supervisor as module
from tokenrelay.protocol.runtime.instruments import Instruments
from tokenrelay.protocol.runtime.supervisor import MAX_PAUSE_S, Supervisor, pause_s


def made() -> tuple[Supervisor, Instruments]:
    counts = Instruments()
    return Supervisor(counts.counter("failures_total", "Failures", task=("work",))), counts


def play(scene: Callable[[Supervisor, Instruments], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pause_s", lambda _: 0.0)

    async def main() -> None:
        supervisor, counts = made()
        async with asyncio.timeout(10):
            await scene(supervisor, counts)
            await supervisor.close()

    asyncio.run(main())


async def stray_cancellation() -> None:
    other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    other.cancel()
    await other


async def raises() -> None:
    raise KeyError("stream")


async def returns() -> None:
    return


@pytest.mark.parametrize("fault", [raises, returns, stray_cancellation])
def test_whatever_ends_a_task_it_is_started_anew(
    fault: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(supervisor: Supervisor, counts: Instruments) -> None:
        tries = 0
        works = asyncio.Event()

        async def run() -> None:
            nonlocal tries
            tries += 1
            if tries < 4:
                await fault()
                return
            works.set()
            await asyncio.Event().wait()

        with structlog.testing.capture_logs() as said:
            supervisor.own("work", run)
            await works.wait()
        assert [line["event"] for line in said] == ["task_failed"] * 3
        assert all(line["task"] == "work" and line["error"] for line in said)
        assert counts.read()["failures_total"] == [(("work",), [3.0])]
        assert list(supervisor.in_trouble) == ["work"]

    play(scene, monkeypatch)


def test_a_task_that_has_run_for_a_while_is_in_trouble_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEADY_S", 0.0)

    async def scene(supervisor: Supervisor, _: Instruments) -> None:
        tries = iter([raises])
        works = asyncio.Event()

        async def run() -> None:
            for fault in tries:
                await fault()
            works.set()
            await asyncio.Event().wait()

        supervisor.own("work", run)
        await works.wait()
        while supervisor.in_trouble:
            await asyncio.sleep(0)

    play(scene, monkeypatch)


def test_two_tries_are_never_more_than_five_seconds_apart() -> None:
    assert MAX_PAUSE_S == 5
    assert all(0 < pause_s(failures) <= MAX_PAUSE_S for failures in range(2_000))


def test_closing_ends_the_tasks_and_counts_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(supervisor: Supervisor, counts: Instruments) -> None:
        began = asyncio.Event()

        async def run() -> None:
            began.set()
            await asyncio.Event().wait()

        supervisor.own("work", run)
        await began.wait()
        await supervisor.close()
        assert counts.read()["failures_total"] == [(("work",), [0.0])]

    play(scene, monkeypatch)
