"""The two command lines: what they take, and what they refuse with which words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tokenrelay.loadtest import __main__ as command
from tokenrelay.loadtest.bench import __main__ as bench
from tokenrelay.loadtest.client import BEHAVIOURS
from tokenrelay.loadtest.scenarios import SCENARIOS, SHAPES, USERS
from tokenrelay.protocol.models import scripted


@pytest.mark.parametrize(
    ("main", "argv", "says"),
    [
        (command.main, ["nonsense"], "invalid choice: 'nonsense'"),
        (command.main, [], "SCENARIO"),
        (command.main, ["steady", "--rate", "0"], "a number above 0"),
        (command.main, ["steady", "--rate", "nan"], "a number above 0"),
        (command.main, ["steady", "--duration", "x"], "--duration"),
        (command.main, ["steady", "--model", "scripted?tokens=x"], "tokens is an integer"),
        (command.main, ["steady", "--report", "/nowhere/at/all.html"], "there is no folder"),
        (bench.main, ["--compare", "naive,nonsense"], "unknown build 'nonsense'"),
        (bench.main, ["--runs", "0"], "a whole number above 0"),
        (bench.main, ["--doc", "LICENSE"], "no page with <!-- bench -->"),
        (bench.main, ["soak", "--minutes", "-1"], "a number above 0"),
        (bench.main, ["idle", "--sse", "x"], "a whole number above 0"),
        (bench.main, ["growth", "--json", "/nowhere/at/all.json"], "there is no folder"),
        (bench.main, ["capacity", "/nowhere/at/all.json"], "was not written by `growth --json`"),
        (bench.main, ["capacity", "LICENSE"], "was not written by `growth --json`"),
        (bench.main, ["--compare", "nonsense"], "unknown build 'nonsense'"),
        (bench.main, ["--json", "/nowhere/at/all.json"], "there is no folder"),
    ],
)
def test_what_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], argv: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(argv)
    assert refused.value.code == 2
    assert says in capsys.readouterr().err


def test_help_lists_the_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed and row.says in printed for name, row in SCENARIOS.items())


def test_every_scenario_is_made_of_what_there_is() -> None:
    for row in SCENARIOS.values():
        assert row.shape in SHAPES
        assert set(row.users) <= set(USERS)
        scripted.parse(row.model)
    assert {user for row in SCENARIOS.values() for user in row.users} == set(USERS) == set(BEHAVIOURS)
    assert {row.shape for row in SCENARIOS.values()} == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_never_asks_for_more_than_all_of_it(name: str) -> None:
    shares = [SHAPES[name](step / 100) for step in range(100)]
    assert all(0 <= share <= 1 for share in shares)
    assert max(shares) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("argv", "hidden"),
    [
        (["steady", "--key", "secret"], ["steady", "--key", "…"]),
        (["--key=secret", "steady"], ["--key=…", "steady"]),
        (["steady"], ["steady"]),
    ],
)
def test_a_report_does_not_tell_the_key(argv: list[str], hidden: list[str]) -> None:
    assert command.hide_key(argv) == hidden
