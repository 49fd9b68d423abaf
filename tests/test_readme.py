"""README says what the code does: the settings table, and nothing that is not so."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from tokenrelay.protocol.models import catalogue
from tokenrelay.server.settings import Settings as EdgeSettings
from tokenrelay.workers.settings import Settings as WorkerSettings
from tokenrelay.workers.tools import servers

ROOT = Path(__file__).parent.parent


def _default(value: object) -> str:
    if isinstance(value, Path):
        return f"`{value.relative_to(ROOT)}`"
    if value is None or value == "" or value == SecretStr(""):
        return "none"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def settings_table() -> str:
    """The table as README has to have it."""
    rows: dict[str, list[str]] = {}
    who = (("edge", EdgeSettings), ("worker", WorkerSettings))
    for role, kind in who:
        assert issubclass(kind, BaseSettings)
        for name, field in kind.model_fields.items():
            row = [_default(field.default), field.description or "", role]
            variable = field.validation_alias or f"TOKENRELAY_{name.upper()}"
            known = rows.setdefault(str(variable), row)
            if known is not row:
                assert known[:2] == row[:2], f"{name} means two things"
                known[2] = "both"
    lines = ["| variable | default | read by | meaning |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {default} | {role} | {text} |" for name, (default, text, role) in rows.items()]
    return "\n".join(lines)


def test_the_settings_table_is_that_of_the_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- settings:.*?-->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert match is not None
    assert match[1] == settings_table()


def test_every_command_and_file_that_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_server_and_the_tools_that_readme_shows_can_be_read() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<<'END'\n(.*?)\n    END\n", readme, re.DOTALL)
    assert shown is not None
    shipped = (ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8")
    found = catalogue.parse(shipped + textwrap.dedent(shown[1]))
    assert found.find("qwen").model.source == "ollama"
    listed = re.search(r"^    \{\"mcpServers\": .*?^    \}\}$", readme, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert set(servers.parse(listed[0], is_toml=False)) == {"time", "remote"}
