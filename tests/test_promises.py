"""Pages that name for each promise, fault or attack the test that holds it; and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_readme import settings_table

ROOT = Path(__file__).parent.parent
TRIED = "docs/security-tried.md"
PAGES = ("SECURITY.md", "docs/operations.md", TRIED)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NAMED_JAVASCRIPT = re.compile(r'`([\w/]+\.test\.js)` "([^"]+)"')


def text_of(page: str) -> str:
    """What a reader sees of it."""
    return re.sub(r"<!--.*?-->", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    named = NAMED.findall(text_of(page))
    assert len(named) > 10
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name
    in_javascript = NAMED_JAVASCRIPT.findall(text_of(page))
    for path, title in in_javascript:
        assert title in (ROOT / path).read_text(encoding="utf-8"), title
    of_tests = re.findall(r"`(?:tests/|clients/javascript/tests/)", text_of(page))
    assert len(named) + len(in_javascript) == len(of_tests), "a test is named in another form"


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_a_test(page: str) -> None:
    """Rows of the tables whose last column is `test`."""
    for table in re.findall(r"^\| promise .*\n\|[-|]+\n((?:\|.*\n)+)", text_of(page), re.MULTILINE):
        for row in table.splitlines():
            assert NAMED.search(row.rsplit(" | ", 1)[1]), row


def test_what_was_tried_has_a_test_or_is_said_to_be_open() -> None:
    tables = re.findall(r"^\| fault or attack .*\n\|[-|]+\n((?:\|.*\n)+)", text_of(TRIED), re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 50
    for row in rows:
        test = row.rsplit(" | ", 1)[1]
        assert NAMED.search(test) or NAMED_JAVASCRIPT.search(test) or ("**Open" in row and test == "none yet |"), row


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_and_link_that_is_named_exists(page: str) -> None:
    table = settings_table()
    for setting in re.findall(r"TOKENRELAY_[A-Z_]+", text_of(page)):
        assert f"`{setting}`" in table, setting
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text_of(page)):
        assert ((ROOT / page).parent / link).resolve().exists(), link
