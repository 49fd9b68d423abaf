"""The settings file of MCP servers: which there are and how each is reached. Reads text; starts and asks none."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

MAX_SERVERS: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SECTIONS: Final = ("mcpServers", "mcp_servers", "servers")


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server: started by `command` and spoken to over its pipes, or reached at `url` (streamable HTTP).

    `tools`: only these are offered; left out: all. `show_stderr`: what a started server says there goes to ours.
    """

    command: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: Annotated[str, msgspec.Meta(pattern="^https?://")] | None = None
    headers: dict[str, str] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    tools: tuple[str, ...] | None = None
    show_stderr: bool = False

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError("expected either command or url")
        if self.url is None and self.headers:
            raise ValueError("headers are for a server with url")
        if self.command is None and (self.args or self.env or self.show_stderr):
            raise ValueError("args, env and show_stderr are for a server with command")


def parse(text: str, is_toml: bool) -> dict[str, ServerConfig]:
    """The servers by name: `{"mcpServers": {name: {…}}}` as other programs write it too. Raises ValueError."""
    try:
        value: Any = tomllib.loads(text) if is_toml else msgspec.json.decode(text)
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ValueError(f"the file of MCP servers is not {'TOML' if is_toml else 'JSON'}: {error}") from error
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _SECTIONS:
        raise ValueError('expected one table of servers: {"mcpServers": {"name": {"command": …} or {"url": …}}}')
    try:
        servers = msgspec.convert(next(iter(value.values())), type=dict[str, ServerConfig])
    except msgspec.ValidationError as error:
        raise ValueError(f"the file of MCP servers is not valid: {error}") from error
    for name in servers:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"the name {name[:40]!r} of an MCP server: expected letters, digits, _ and -, at most 32")
    if len(servers) > MAX_SERVERS:
        raise ValueError(f"expected at most {MAX_SERVERS} MCP servers, got {len(servers)}")
    return servers


def load(path: str) -> dict[str, ServerConfig]:
    """The servers of a file, TOML by its ending, else JSON; none for an empty path. Raises ValueError, OSError."""
    if not path:
        return {}
    file = Path(path)
    return parse(file.read_text(encoding="utf-8"), file.suffix.lower() == ".toml")
