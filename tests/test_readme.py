"""README and the docs say what the code does: the settings table, the commands, the catalogue rows."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from pydantic import AliasChoices, SecretStr
from pydantic_settings import BaseSettings

from tokenrelay.loadtest.bench import output
from tokenrelay.loadtest.bench.table import FIGURES
from tokenrelay.protocol.models import catalogue
from tokenrelay.server.settings import Settings as EdgeSettings
from tokenrelay.workers.settings import Settings as WorkerSettings
from tokenrelay.workers.tools import servers

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]
CLIENT_VARIABLES = {"TOKENRELAY_URL", "TOKENRELAY_KEY", "TOKENRELAY_API_KEY"}
"""What the clients read, and the recipes: not settings of a server."""


def _default(value: object) -> str:
    if isinstance(value, Path):
        return f"`{value.resolve().relative_to(ROOT)}`"
    if value is None or value == "" or value == SecretStr(""):
        return "none"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def settings_table() -> str:
    """The table as docs/configuration.md has to have it."""
    rows: dict[str, list[str]] = {}
    who = (("edge", EdgeSettings), ("worker", WorkerSettings))
    for role, kind in who:
        assert issubclass(kind, BaseSettings)
        for name, field in kind.model_fields.items():
            row = [_default(field.default), field.description or "", role]
            alias = field.validation_alias
            variable = alias.choices[0] if isinstance(alias, AliasChoices) else alias or f"TOKENRELAY_{name.upper()}"
            known = rows.setdefault(str(variable), row)
            if known is not row:
                assert known[:2] == row[:2], f"{name} means two things"
                known[2] = "both"
    lines = ["| variable | default | read by | meaning |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {default} | {role} | {text} |" for name, (default, text, role) in rows.items()]
    return "\n".join(lines)


def test_the_settings_table_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- settings:.*?-->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert match is not None
    assert match[1] == settings_table()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_command_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / page).parent / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_is_a_page() -> None:
    """A newcomer reads it in two minutes; what is longer has a page of its own."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_setting_that_a_page_names_exists() -> None:
    table = settings_table()
    for page in PAGES:
        for setting in re.findall(r"TOKENRELAY_[A-Z_]+[A-Z]", (ROOT / page).read_text(encoding="utf-8")):
            assert f"`{setting}`" in table or setting in CLIENT_VARIABLES, f"{page}: {setting}"


def test_the_server_and_the_tools_that_the_docs_show_can_be_read() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    shown = re.search(r"<<'END'\n(.*?)\n    END\n", page, re.DOTALL)
    assert shown is not None
    shipped = (ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8")
    found = catalogue.parse(shipped + textwrap.dedent(shown[1]))
    assert found.find("qwen").model.source == "ollama"
    listed = re.search(r"^    \{\"mcpServers\": .*?^    \}\}$", page, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert set(servers.parse(listed[0], is_toml=False)) == {"time", "remote"}


def test_the_benchmark_can_write_its_table_where_the_page_says() -> None:
    """`bench --doc docs/benchmarks.md` finds its marks, with `--only` those of its own; the rows between them are the
    benchmark's own figures."""
    page = ROOT / "docs" / "benchmarks.md"
    assert output.marked("bench")(str(page)) == page
    tables = re.findall(r"<!-- (bench[ \w]*) -->\n(.*?)<!-- /\1 -->", page.read_text(encoding="utf-8"), re.DOTALL)
    told = [
        line.split("|")[1].strip() for _, table in tables for line in table.splitlines()[2:] if line.startswith("|")
    ]
    assert {row.removeprefix("… ") for row in told} == {figure.title.strip() for figure in FIGURES.values()}
