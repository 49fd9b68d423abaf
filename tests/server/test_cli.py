"""The console script: what it hands over to whom, and that it hands over at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tokenrelay.server import cli
from tokenrelay.server.stack import up

HEAVY = ("rich", "uvicorn", "starlette", "aiohttp", "redis", "arq", "pydantic_settings", "tokenrelay.server.stack.up")


class Recorder:
    """A callable that keeps what it was called with and answers one thing."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> int:
        self.calls.append(arguments)
        return self.answer


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments)


@pytest.mark.parametrize("command", ["up", "init", "serve", "work", "chat", "bench"])
def test_every_command_has_help(command: str) -> None:
    assert command in invoke("--help").stdout
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")


def test_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from server.cli import main\n"
        "try: main()\n"
        f"except SystemExit: print('SLOW', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "SLOW []"


def test_version_is_one_line() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("tokenrelay")
    assert len(result.stdout.splitlines()) == 1


def test_up_hands_its_options_over(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Recorder(7)
    monkeypatch.setattr(up, "main", main)
    result = invoke("up", "--port", "9000", "--workers", "2", "--edges", "3")
    assert result.exit_code == 7
    assert main.calls == [(up.Plan(host="127.0.0.1", port=9000, workers=2, edges=3),)]


def test_up_takes_the_port_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    main = Recorder(0)
    monkeypatch.setattr(up, "main", main)
    monkeypatch.setenv("TOKENRELAY_PORT", "9001")
    invoke("up")
    assert main.calls == [(up.Plan(port=9001),)]


@pytest.mark.parametrize("arguments", [["up", "--port", "65536"], ["up", "--workers", "0"], ["serve", "--port", "x"]])
def test_an_option_that_cannot_be_is_refused(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "package", "processes"),
    [
        (["serve", "--host", "127.0.0.2", "--port", "9002"], "server", "1"),
        (["serve", "--processes", "4"], "server", "4"),
        (["work", "--processes", "2"], "workers", "2"),
    ],
)
def test_a_role_replaces_this_process(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], package: str, processes: str
) -> None:
    became: list[tuple[str, list[str], dict[str, str]]] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        became.append((program, command, environment))
        raise SystemExit(0)  # as if gone

    for name in ("TOKENRELAY_HOST", "TOKENRELAY_PORT"):  # set, so that it is put back
        monkeypatch.setenv(name, {"TOKENRELAY_HOST": "127.0.0.1", "TOKENRELAY_PORT": "8000"}[name])
    monkeypatch.setattr(os, "execve", execve)
    invoke(*arguments)
    [(program, command, environment)] = became
    assert program == sys.executable
    assert command[-4:] == ["-m", f"tokenrelay.{package}", "--processes", processes]
    if "--port" in arguments:
        assert (environment["TOKENRELAY_HOST"], environment["TOKENRELAY_PORT"]) == ("127.0.0.2", "9002")


def test_chat_calls_the_terminal_client(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder(3)
    terminal = SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "tokenrelay_client.terminal", terminal)
    monkeypatch.setattr("tokenrelay_client.terminal", terminal, raising=False)
    for option in ("--url", "--host"):
        result = invoke("chat", option, "http://127.0.0.1:9003", "--key", "k", "--model", "scripted", "--json", "hello")
        assert result.exit_code == 3
        assert run.calls.pop() == ("http://127.0.0.1:9003", "k", "scripted", None, True, "hello", "auto")
    invoke("chat", "--transport", "sse")
    assert run.calls.pop()[-1] == "sse"
    assert invoke("chat", "--transport", "pigeon").exit_code == 2
    assert not run.calls


def test_chat_says_so_when_its_client_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenrelay_client", None)
    result = invoke("chat")
    assert result.exit_code == 1
    assert "terminal client cannot be loaded" in result.stderr


def test_bench_replaces_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        became.append(command)
        raise SystemExit(0)  # as if gone

    monkeypatch.setattr(os, "execve", execve)
    invoke("bench", "--quick", "--compare", "naive", "--json", "out.json")
    assert became[0][-6:] == ["tokenrelay.loadtest.bench", "--quick", "--compare", "naive", "--json", "out.json"]
    invoke("bench", "soak", "--minutes", "2", "--json", "out.json")
    assert became[1][-6:] == ["tokenrelay.loadtest.bench", "soak", "--minutes", "2", "--json", "out.json"]


def test_keys_are_made_listed_with_their_limits_and_taken_away(tmp_path: Path) -> None:
    file = str(tmp_path / "keys")
    limits = ("--rate", "5", "--concurrency", "2", "--connections", "3", "--max-output-tokens", "400")
    secret = invoke("keys", "add", "web", "--file", file, *limits).stdout.strip()
    assert secret.startswith("tr_")
    assert invoke("keys", "add", "plain", "--file", file).exit_code == 0
    assert invoke("keys", "add", "web", "--file", file).exit_code == 1
    listed = [line.split("\t") for line in invoke("keys", "list", "--file", file).stdout.splitlines()]
    assert [(row[0], row[2:]) for row in listed] == [
        ("web", ["concurrency=2 rate=5 connections=3 max_output_tokens=400"]),
        ("plain", []),
    ]
    assert secret not in Path(file).read_text()
    assert invoke("keys", "revoke", "web", "--file", file).exit_code == 0
    assert "web" not in invoke("keys", "list", "--file", file).stdout
