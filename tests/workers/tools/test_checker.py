"""Schemas of others are held against values in a child: the loop goes on whatever they ask."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tokenrelay.workers.tools.checker import Checker, CheckFailed

BACKTRACKS = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
HOSTILE = {"a": "a" * 40 + "!"}
REQUIRED = {"type": "object", "required": ["a"]}


def play(scene: Callable[[Checker], Awaitable[None]], check_s: float = 1.0) -> None:
    async def whole() -> None:
        checker = Checker(check_s)
        try:
            async with asyncio.timeout(60):
                await scene(checker)
        finally:
            await checker.close()

    asyncio.run(whole())


def test_a_value_is_held_against_the_schema() -> None:
    async def scene(checker: Checker) -> None:
        assert await checker.issue({"a": 1}, REQUIRED) is None
        assert await checker.issue({}, REQUIRED) == "arguments: 'a' is a required property"
        assert await checker.issue({"a": "aa"}, BACKTRACKS) is None

    play(scene, check_s=30)


def test_a_pattern_that_backtracks_stops_neither_the_loop_nor_the_next_check() -> None:
    async def scene(checker: Checker) -> None:
        assert await checker.issue({"a": 1}, REQUIRED) is None
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        turning = asyncio.create_task(turn())
        with pytest.raises(CheckFailed, match="in time"):
            await checker.issue(HOSTILE, BACKTRACKS)
        turning.cancel()
        assert turns > 3  # in the loop it would be one at most
        assert await _patiently(checker) == "arguments: 'a' is a required property"

    play(scene)


async def _patiently(checker: Checker) -> Any:
    """On a machine so busy that a second is little."""
    while True:
        try:
            return await checker.issue({}, REQUIRED)
        except CheckFailed:
            await asyncio.sleep(0.1)


def test_a_child_that_died_is_begun_again() -> None:
    async def scene(checker: Checker) -> None:
        assert await checker.issue({"a": 1}, REQUIRED) is None
        child = checker._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        assert await checker.issue({}, REQUIRED) is not None
        assert checker._child is not child

    play(scene, check_s=30)


def test_a_check_that_is_cancelled_leaves_its_answer_to_nobody() -> None:
    async def scene(checker: Checker) -> None:
        assert await checker.issue({"a": 1}, REQUIRED) is None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await checker.issue(HOSTILE, BACKTRACKS)
        assert await checker.issue({}, REQUIRED) == "arguments: 'a' is a required property"

    play(scene, check_s=30)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"pattern": "("}, {"type": "none"}], ids=["endless", "bad", "type"])
def test_a_schema_that_cannot_be_used_says_nothing(schema: dict[str, Any]) -> None:
    async def scene(checker: Checker) -> None:
        assert await checker.issue("x", schema) is None

    play(scene, check_s=30)
