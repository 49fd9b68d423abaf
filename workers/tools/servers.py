"""The settings file of MCP servers: which there are and how each is reached. Reads text; starts and asks none.

Files are read as other programs write them (Claude, VS Code, Cline, Cursor, Gemini CLI, Codex): their names for our
fields, comments, variables. What is not known is named and ignored.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec

MAX_SERVERS: Final = 64
MAX_TIMEOUT_S: Final = 3600
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SECTIONS: Final = ("mcpServers", "mcp_servers", "servers", "context_servers")
_VARIABLE: Final = re.compile(r"\$\{(?:(?P<kind>env|input):)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\}")
# A string, which stays as it is; a comment; a comma before a closing bracket.
_JSONC: Final = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)

_CALLED: Final[Mapping[str, str]] = {
    "httpUrl": "url", "serverUrl": "url", "http_headers": "headers", "environment": "env",
    "includeTools": "tools", "enabled_tools": "tools", "excludeTools": "without", "disabled_tools": "without",
    "tool_timeout_sec": "timeout_s", "timeout": "timeout_s",
}  # fmt: skip
"""What other programs call our fields."""

_WITHOUT_MEANING: Final = frozenset({"disabled", "enabled", "type", "transport"})
"""Read here, and no field."""

_SPOKEN: Final = frozenset({"stdio", "local", "http", "streamable-http", "streamableHttp", "streamable_http", "remote"})

Note: TypeAlias = Callable[[str], None]


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server: started by `command` and spoken to over its pipes, or reached at `url` (streamable HTTP).

    `tools`: only these are offered; left out: all. `without`: these are not. `show_stderr`: what a started server says
    there goes to ours.
    """

    command: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: Annotated[str, msgspec.Meta(pattern="^https?://")] | None = None
    headers: dict[str, str] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S)] = 30.0
    tools: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    show_stderr: bool = False

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError("expected either command or url")
        if self.url is None and self.headers:
            raise ValueError("headers are for a server with url")
        if self.command is None and (self.args or self.env or self.show_stderr or self.cwd):
            raise ValueError("args, env, cwd and show_stderr are for a server with command")

    def offers(self, tool: str) -> bool:
        return (self.tools is None or tool in self.tools) and tool not in self.without


def _ignore(_: str) -> None: ...


def parse(
    text: str, is_toml: bool, note: Note = _ignore, environment: Mapping[str, str] = os.environ
) -> dict[str, ServerConfig]:
    """The servers by name: `{"mcpServers": {name: {…}}}` as other programs write it too; those it disables are left
    out. `note` hears what was ignored, in words without a value. Raises ValueError."""
    section = _section(text, is_toml, note)
    servers: dict[str, ServerConfig] = {}
    for given, raw in section.items():
        try:
            config = _config(given, raw, note, environment)
        except (msgspec.ValidationError, ValueError) as error:
            raise ValueError(f"the file of MCP servers is not valid: {error} - at {given[:40]!r}") from error
        if config is not None:
            servers[_free_name(given, servers, note)] = config
    if len(servers) > MAX_SERVERS:
        raise ValueError(f"expected at most {MAX_SERVERS} MCP servers, got {len(servers)}")
    return servers


def _section(text: str, is_toml: bool, note: Note) -> dict[str, Any]:
    try:
        value: Any = tomllib.loads(text) if is_toml else msgspec.json.decode(_JSONC.sub(_kept, text.lstrip("\ufeff")))
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ValueError(f"the file of MCP servers is not {'TOML' if is_toml else 'JSON'}: {error}") from error
    if isinstance(value, dict) and isinstance(value.get("mcp"), dict):  # a whole settings.json of VS Code
        value = value["mcp"]
    found = [name for name in _SECTIONS if name in value] if isinstance(value, dict) else []
    if len(found) != 1:
        raise ValueError('expected one table of servers: {"mcpServers": {"name": {"command": …} or {"url": …}}}')
    for name in value.keys() - set(found):
        note(f"{name!r} beside the servers is not known and ignored")
    section = value[found[0]]
    if not isinstance(section, dict):
        raise ValueError("the file of MCP servers is not valid: expected a table of servers by name")
    return section


def _kept(match: re.Match[str]) -> str:
    return match[1] or ""


def _config(name: str, raw: Any, note: Note, environment: Mapping[str, str]) -> ServerConfig | None:
    """None: it is not to be used, and `note` has heard why. Raises ValueError."""
    if not isinstance(raw, dict):
        raise ValueError("expected a table")
    if raw.get("disabled") is True or raw.get("enabled") is False:
        note(f"server {name!r} is disabled by the file")
        return None
    kind = raw.get("type", raw.get("transport", "stdio"))
    if kind not in _SPOKEN:
        note(f"server {name!r} is left out: no transport {str(kind)[:40]!r} here, expected stdio or http")
        return None
    lacking: set[str] = set()
    fields = {_CALLED.get(field, field): _expanded(value, environment, lacking) for field, value in raw.items()}
    if lacking:
        note(f"server {name!r} is left out: the environment lacks {', '.join(sorted(lacking))}")
        return None
    for field in fields.keys() - set(ServerConfig.__struct_fields__) - _WITHOUT_MEANING:
        note(f"server {name!r}: {field!r} is not known and ignored")
    known = {field: fields[field] for field in ServerConfig.__struct_fields__ if fields.get(field) is not None}
    return msgspec.convert(_ours(known), type=ServerConfig)


def _ours(fields: dict[str, Any]) -> dict[str, Any]:
    """Values in the shapes we have: a command as a list, numbers among strings, milliseconds."""
    command, timeout = fields.get("command"), fields.get("timeout_s")
    if isinstance(command, list) and command:
        fields["command"], fields["args"] = command[0], [*command[1:], *fields.get("args", ())]
    if isinstance(fields.get("args"), list):
        fields["args"] = [_word(item) for item in fields["args"]]
    for name in ("env", "headers"):
        if isinstance(fields.get(name), dict):
            fields[name] = {key: _word(value) for key, value in fields[name].items()}
    if isinstance(timeout, (int, float)) and timeout > MAX_TIMEOUT_S:  # nobody means hours
        fields["timeout_s"] = min(float(MAX_TIMEOUT_S), timeout / 1000)
    return fields


def _word(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def _expanded(value: Any, environment: Mapping[str, str], lacking: set[str]) -> Any:
    """`${NAME}` and `${env:NAME}` from the environment; `${input:…}` asks a person, and nobody is here."""
    if isinstance(value, dict):
        return {key: _expanded(item, environment, lacking) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, environment, lacking) for item in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        if match["kind"] == "input" or match["name"] not in environment:
            lacking.add(match[0])
        return environment.get(match["name"], "")

    return _VARIABLE.sub(put, value)


def _free_name(given: str, taken: Mapping[str, Any], note: Note) -> str:
    """What its tools are called by: letters, digits, _ and -, at most 32, and nobody else's."""
    name = given if _NAME.fullmatch(given) else re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-")[:32] or "server"
    number = 2
    while name in taken:
        name, number = f"{name[:28]}-{number}", number + 1
    if name != given:
        note(f"server {given[:80]!r} is called {name!r} here")
    return name


def load(path: str, note: Note = _ignore) -> dict[str, ServerConfig]:
    """The servers of a file, TOML by its ending, else JSON; none for an empty path. Raises ValueError, OSError."""
    if not path:
        return {}
    file = Path(path)
    return parse(file.read_text(encoding="utf-8"), file.suffix.lower() == ".toml", note)
