"""Tools: what the calculator knows and refuses, and that no tool kills a stream."""

from __future__ import annotations

import asyncio

import pytest

from protocol.events import MAX_TOOL_RESULT_BYTES
from workers.tools import registry
from workers.tools.calculator import NotArithmetic, calculate

SUMS = [
    ("6*7", "42"),
    (" 1 + 2 * 3 ", "7"),
    ("(1+2)*3", "9"),
    ("-2**2", "-4"),
    ("2**-1", "0.5"),
    ("7//2", "3"),
    ("7%4", "3"),
    ("1/4", "0.25"),
    ("4/2", "2"),
    ("1e3", "1000"),
    ("0.1+0.2", "0.30000000000000004"),
]
NOT_SUMS = [
    "",
    "x",
    "1+",
    "__import__('os')",
    "(lambda: 1)()",
    "'a'*9",
    "True+1",
    "[1]",
    "1/0",
    "9**9**9",
    "9**999999999",
    "(-1)**0.5",
    "1" * 501,
    "((((" * 200,
    "1e308*10**12*1e308**2",
]


@pytest.mark.parametrize(("expression", "value"), SUMS)
def test_a_sum_has_its_value(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize("expression", NOT_SUMS)
def test_what_is_no_sum_is_refused_in_words(expression: str) -> None:
    with pytest.raises(NotArithmetic):
        calculate(expression)


CALLS = [
    ("calculator", {"expression": "6*7"}, "42", False),
    ("calculator", {"expression": "x"}, "only numbers, + - * / // % ** and brackets", True),
    ("calculator", {}, 'expected {"expression": "6*7"}', True),
    ("nonsense", {}, "there is no tool called 'nonsense'", True),
]


@pytest.mark.parametrize(("name", "arguments", "text", "failed"), CALLS)
def test_a_call_always_has_an_outcome(name: str, arguments: dict[str, str], text: str, failed: bool) -> None:
    assert asyncio.run(registry.call(name, arguments)) == registry.Outcome(text, failed)


def test_a_large_result_is_cut_to_what_an_event_takes() -> None:
    cut = registry._cut("é" * MAX_TOOL_RESULT_BYTES)
    assert len(cut.encode()) <= MAX_TOOL_RESULT_BYTES
    assert cut.endswith("… (cut)")
