"""What the runner makes of a program that fails: no failure is lost, and none looks like a case that went well."""

from __future__ import annotations

import re

from tests.conformance import environments, runner


def test_the_table_has_a_mark_for_each_case() -> None:
    told = runner.table({"a": {"text": None, "drain": "it ended"}, "b": {"program": "it ended with 1"}})
    head, first, second = told.splitlines()
    assert head.split()[0] == "text"
    assert head.split()[-1] == "program"
    assert (first.split().count("ok"), first.split().count("FAIL")) == (1, 1)
    assert second.split()[-1] == "FAIL"


def test_failures_are_all_that_have_an_issue() -> None:
    outcomes: dict[str, runner.Outcome] = {"a": {"text": None, "drain": "x"}, "b": {"program": "y"}}
    assert runner.failures(outcomes) == [("a", "drain", "x"), ("b", "program", "y")]


def test_every_client_is_pinned_and_has_a_program() -> None:
    for client in environments.clients():
        assert all(re.search(r"(==|.@)\d+\.\d+\.\d+$", package) for package in client.packages)
        name = client.program if client.program.endswith(".mjs") else f"{client.program}.py"
        assert (environments.HERE / name).exists()


def test_another_pin_is_another_folder() -> None:
    first = environments.Client("a", ["openai==1.0.0"])
    assert environments.folder(first) != environments.folder(environments.Client("a", ["openai==1.0.1"]))
