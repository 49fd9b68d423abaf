"""A task that a fault ends is logged with its cause, counted, started anew; one that is ended on purpose is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

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


def given_up_after(
    fault: Callable[[], Awaitable[None]], *, is_vital: bool, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Which tasks were given up by the time a task has failed twenty times in a row."""
    monkeypatch.setattr(module, "HOPELESS_S", 1e-9)
    given_up: list[str] = []

    async def scene() -> None:
        tries = 0
        is_over = asyncio.Event()

        async def run() -> None:
            nonlocal tries
            tries += 1
            if tries > 20:
                is_over.set()
                await asyncio.Event().wait()
            await fault()

        counts = Instruments()
        supervisor = Supervisor(counts.counter("failures_total", "Failures", task=("work",)), given_up.append)
        supervisor.own("work", run, is_vital=is_vital)
        async with asyncio.timeout(10):
            await is_over.wait()
        await supervisor.close()

    monkeypatch.setattr(module, "pause_s", lambda _: 0.0)
    with structlog.testing.capture_logs():
        asyncio.run(scene())
    return given_up


async def redis_is_away() -> None:
    raise ConnectionResetError


@pytest.mark.parametrize(
    ("fault", "is_vital", "expected"),
    [
        (raises, True, ["work"]),
        (returns, True, ["work"]),
        (raises, False, []),  # the process is of use without it
        (redis_is_away, True, []),  # it comes back; a process that ended would not
    ],
)
def test_a_vital_task_that_a_fault_of_ours_ends_again_and_again_is_given_up_once(
    fault: Callable[[], Awaitable[None]], is_vital: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert given_up_after(fault, is_vital=is_vital, monkeypatch=monkeypatch) == expected


def test_a_fault_counts_from_its_own_beginning_not_from_that_of_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    tries = 0
    given_up: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "pause_s", lambda _: 0.0)

    async def run() -> None:
        nonlocal now, tries
        now += 5.0
        tries += 1
        if tries > 60:
            await asyncio.Event().wait()
        raise ConnectionResetError if tries <= 20 else KeyError

    async def scene() -> None:
        counts = Instruments()
        failures = counts.counter("failures_total", "Failures", task=("work",))
        supervisor = Supervisor(failures, lambda _: given_up.append(now))
        supervisor.own("work", run, is_vital=True)
        while tries <= 60:
            await asyncio.sleep(0)
        await supervisor.close()

    with structlog.testing.capture_logs():
        asyncio.run(scene())
    assert given_up == [100.0 + module.HOPELESS_S]
