"""What a person does on the chat page, and what is to be seen there."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.fleet import Fleet

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_MS = 20_000
STILL_MS = 400
KEY = "sesame"


def choose_transport(page: Page, name: str) -> None:
    """As one who had chosen it before opening the page."""
    page.add_init_script(
        f"""try {{
          if (!sessionStorage.getItem("tokenrelay.transport")) sessionStorage.setItem("tokenrelay.transport", "{name}");
        }} catch {{ /* not the page, but the browser's own page of an error */ }}"""
    )


def open_page(page: Page, fleet: Fleet, model: str, rest: str = "", transport: str | None = None) -> None:
    if transport is not None:
        choose_transport(page, transport)
    page.goto(f"{fleet.urls[0]}/?model={quote(model, safe='')}{rest}")


def ask(page: Page, question: str = "hello") -> None:
    page.get_by_role("textbox").fill(question)
    page.keyboard.press("Enter")


def text(page: Page) -> str:
    """The newest answer as it stands."""
    return page.get_by_role("article").last.text_content() or ""


def status(page: Page) -> str:
    return page.get_by_role("status").text_content() or ""


def wait_until_still(page: Page) -> str:
    """The answer once nothing is drawn any more of what has arrived."""
    shown = text(page)
    for _ in range(40):
        page.wait_for_timeout(STILL_MS)
        before, shown = shown, text(page)
        if shown == before:
            return shown
    raise AssertionError("it is still being written")


def wait_for_some(page: Page, more_than: str = "") -> str:
    page.wait_for_function(
        "(least) => [...document.querySelectorAll('[role=log] [role=article]')].at(-1)?.textContent.length > least",
        arg=len(more_than),
    )
    return text(page)


def wait_for_the_end(page: Page) -> str:
    page.get_by_role("button", name="Stop", exact=True).wait_for(state="hidden")
    return text(page)


def wait_for_words(page: Page, words: str) -> None:
    page.wait_for_function("(words) => document.querySelector('[role=status]').textContent.includes(words)", arg=words)


def stream_id(page: Page) -> str:
    """Of the newest answer, as the address bar has it."""
    page.wait_for_function("() => new URLSearchParams(location.search).has('stream')")
    return str(page.evaluate("new URLSearchParams(location.search).get('stream')"))


def snapshot(fleet: Fleet, name: str) -> dict[str, Any]:
    asked = urllib.request.Request(f"{fleet.urls[0]}/api/streams/{name}", headers={"Accept": "application/json"})
    with urllib.request.urlopen(asked, timeout=5) as answer:
        value: dict[str, Any] = json.load(answer)
        return value


def generations(fleet: Fleet) -> set[str]:
    """Ids of the newest that the fleet has been asked for; at most 100."""
    with urllib.request.urlopen(f"{fleet.urls[0]}/api/streams", timeout=5) as answer:
        return {row["stream_id"] for row in json.load(answer)["streams"]}


def wait_for_state(fleet: Fleet, name: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while (value := snapshot(fleet, name))["state"] != state:
        assert time.monotonic() < deadline, value
        time.sleep(0.05)
    return value
