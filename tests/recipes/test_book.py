"""The page of recipes itself: nothing on it that no test runs, and no link that leads nowhere."""

from __future__ import annotations

import re
from collections import Counter

from tests.recipes.book import NOT_RUN, PAGE, blocks

# Heading and language → how many; each number is one test that runs it.
RUN = {
    ("curl", "sh"): 3,  # test_programs.py
    ("fetch", "js"): 1,
    ("Python", "python"): 2,
    ("WebSocket with msgpack", "python"): 1,
    ("EventSource with a ticket", "python"): 1,  # test_pages.py
    ("EventSource with a ticket", "html"): 1,
    ("React", "jsx"): 1,
    ("Behind nginx", "sh"): 1,  # test_nginx.py
    ("Behind HTTP/2", "sh"): 1,
    ("Behind HTTP/2", "js"): 1,  # test_pages.py
}


def test_no_recipe_stands_there_untested() -> None:
    assert Counter((block.heading, block.language) for block in blocks() if block.language != NOT_RUN) == RUN


def test_no_block_hides_behind_a_missing_language() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks())
    assert all(block.language for block in blocks())


def test_every_link_leads_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in text.splitlines()
        if line[:3] == "## "
    }
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
        assert (PAGE.parent / path).exists(), path
        assert path or anchor in headings, anchor
