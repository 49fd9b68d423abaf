"""Files of MCP servers as other programs write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenrelay.workers.tools.servers import ServerConfig, parse

ENVIRONMENT = {"TOKEN": "t", "HOME": "/home/u"}
COMMAND = ServerConfig(command="npx", args=("-y", "x"))
URL = ServerConfig(url="https://h/mcp")


def read(value: Any, is_toml: bool = False) -> tuple[dict[str, ServerConfig], list[str]]:
    said: list[str] = []
    text = value if isinstance(value, str) else json.dumps(value)
    return parse(text, is_toml, said.append, ENVIRONMENT), said


NPX = {"command": "npx", "args": ["-y", "x"]}
FILES: dict[str, tuple[Any, dict[str, ServerConfig]]] = {
    "Claude": ({"mcpServers": {"a": {"type": "stdio", **NPX}}, "globalShortcut": ""}, {"a": COMMAND}),
    "VS Code": (
        {"servers": {"a": {"type": "http", "url": "https://h/mcp"}}, "inputs": [{"id": "k", "type": "promptString"}]},
        {"a": URL},
    ),
    "VS Code's whole settings": ({"mcp": {"servers": {"a": NPX}, "inputs": []}, "x": 1}, {"a": COMMAND}),
    "Cline": (
        {"mcpServers": {"github.com/x/y": {**NPX, "disabled": False, "autoApprove": ["z"], "timeout": 60}}},
        {"github-com-x-y": ServerConfig(command="npx", args=("-y", "x"), timeout_s=60)},
    ),
    "Gemini CLI": (
        {"mcpServers": {"a": {"httpUrl": "https://h/mcp", "timeout": 600_000, "trust": True, "excludeTools": ["z"]}}},
        {"a": ServerConfig(url="https://h/mcp", timeout_s=600, without=("z",))},
    ),
    "Codex": ('[mcp_servers.a]\ncommand = "npx"\nargs = ["-y", "x"]\nstartup_timeout_sec = 9\n', {"a": COMMAND}),
    "a command as a list": ({"mcpServers": {"a": {"type": "local", "command": ["npx", "-y", "x"]}}}, {"a": COMMAND}),
    "comments and a comma too many": (
        '{\n  // mine\n  "mcpServers": { /* all */ "a": {"url": "https://h/mcp",}, },\n}',
        {"a": URL},
    ),
    "numbers among strings": (
        {"mcpServers": {"a": {"command": "x", "args": ["-p", 8080], "env": {"N": 1, "B": True}}}},
        {"a": ServerConfig(command="x", args=("-p", "8080"), env={"N": "1", "B": "true"})},
    ),
    "variables": (
        {"mcpServers": {"a": {"command": "x", "env": {"K": "${TOKEN}"}, "cwd": "${env:HOME}"}}},
        {"a": ServerConfig(command="x", env={"K": "t"}, cwd="/home/u")},
    ),
}


@pytest.mark.parametrize(("value", "expected"), FILES.values(), ids=FILES)
def test_it_is_read(value: Any, expected: dict[str, ServerConfig]) -> None:
    assert read(value, is_toml=isinstance(value, str) and value.startswith("["))[0] == expected


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "disabled": ({**NPX, "disabled": True}, "is disabled by the file"),
    "not enabled": ({**NPX, "enabled": False}, "is disabled by the file"),
    "disabled, and not even valid": ({"disabled": True}, "is disabled by the file"),
    "another transport": ({"type": "sse", "url": "https://h/sse"}, "no transport 'sse'"),
    "asks a person": ({**NPX, "env": {"K": "${input:key}"}}, "lacks ${input:key}"),
    "a variable that is not set": ({**NPX, "env": {"K": "${NOT_SET}"}}, "lacks ${NOT_SET}"),
}


@pytest.mark.parametrize(("raw", "words"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_server_that_cannot_or_shall_not_run_is_named_and_costs_no_other(raw: dict[str, Any], words: str) -> None:
    configs, said = read({"mcpServers": {"a": raw, "b": NPX}})
    assert configs == {"b": COMMAND}
    assert [line for line in said if words in line and "'a'" in line]


def test_what_is_not_known_is_named_without_its_value() -> None:
    configs, said = read({"mcpServers": {"a": {**NPX, "secretThing": "s3cret"}}})
    assert configs == {"a": COMMAND}
    assert ["secretThing" in line for line in said] == [True]
    assert "s3cret" not in "".join(said)


def test_two_names_that_become_one_stay_two() -> None:
    assert list(read({"mcpServers": {"a b": NPX, "a/b": NPX}})[0]) == ["a-b", "a-b-2"]


def test_a_string_that_looks_like_a_comment_stays() -> None:
    configs, _ = read('{"mcpServers": {"a": {"url": "https://h//x", "headers": {"k": "/* a */, ]"}}}}')
    assert configs == {"a": ServerConfig(url="https://h//x", headers={"k": "/* a */, ]"})}
