"""The chat page for eyes and for screen readers: axe finds nothing, in light, dark and at a phone's width.

`make screenshots` (`TOKENRELAY_SCREENSHOTS=1`) refreshes the pictures in docs/screenshots; without it they are left as
they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import react_package
from tests.browser.fake_provider import FakeProvider
from tests.browser.stage import ask, open_page, wait_for_some, wait_for_the_end, wait_for_words
from tests.fleet import ROOT, Fleet
from tests.needs import require
from tests.wire import words

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

SCREENSHOTS = ROOT / "docs" / "screenshots"
DESKTOP: ViewportSize = {"width": 1100, "height": 960}
PHONE: ViewportSize = {"width": 390, "height": 760}
LOOKS = [
    ("desktop", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE), ("phone-dark", "dark", PHONE),
]  # fmt: skip

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

ANSWER = """\
Server-sent events are **one long HTTP response**: the server writes lines, the browser reads them as they come.

| | SSE | WebSocket |
| :-- | :-- | :-- |
| Direction | to the client | both ways |
| After a break | `Last-Event-ID` | your own cursor |

```js
for await (const { data } of client.chat("hello")) {
  answer.append(data.token);
}
```

- a client that comes back says what it has
- the server sends [what follows](https://html.spec.whatwg.org/multipage/server-sent-events.html), and nothing twice
"""


@pytest.fixture(scope="module")
def axe() -> str:
    modules = react_package.install(ROOT / "clients" / "javascript" / "package.json")
    require(modules, "npm with a registry to install axe-core from")
    assert modules is not None
    return (modules / react_package.AXE).read_text(encoding="utf-8")


def violations(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)
    found: list[Any] = page.evaluate(
        """async (runOnly) => (await axe.run({ runOnly }))
          .violations.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])])""",
        RULES,
    )
    return found


def dress(page: Page, scheme: Any, size: Any) -> None:
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")


def assert_fit(page: Page, axe: str) -> None:
    """In every look: axe finds nothing, and nothing is wider than the window."""
    for name, scheme, size in LOOKS:
        dress(page, scheme, size)
        assert (name, violations(page, axe)) == (name, [])
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name


def test_axe_finds_nothing_from_the_welcome_to_the_failure(
    page: Page, fleet: Fleet, provider: FakeProvider, axe: str
) -> None:
    provider.text = ANSWER
    open_page(page, fleet, "neuroswitch")
    page.wait_for_function("() => document.querySelector('select').options.length > 3")
    assert_fit(page, axe)
    ask(page, "How do server-sent events differ from WebSockets?")
    wait_for_the_end(page)
    for card in page.locator("details").all():
        card.locator("summary").click()
    assert_fit(page, axe)
    open_page(page, fleet, "scripted?tokens=100000&interval_ms=15&tool_after=2")
    ask(page)
    wait_for_some(page)
    wait_for_words(page, "Writing over")
    assert_fit(page, axe)
    page.keyboard.press("Escape")
    wait_for_the_end(page)
    open_page(page, fleet, "scripted?tokens=9&interval_ms=0&fail_after=4")
    ask(page)
    page.locator(".note.bad").wait_for()
    page.get_by_role("button", name="Edit").last.click()
    assert_fit(page, axe)


def test_axe_finds_nothing_where_a_key_is_asked_for(page: Page, locked: Fleet, axe: str) -> None:
    open_page(page, locked, "scripted")
    page.get_by_label("API key").wait_for()
    assert_fit(page, axe)


def test_a_screen_reader_hears_an_answer_once_and_what_the_connection_does(page: Page, fleet: Fleet) -> None:
    """The log is busy while an answer is written, so that it is not read token by token (WAI-ARIA 1.2, aria-busy)."""
    open_page(page, fleet, "scripted?tokens=150&interval_ms=15")
    page.evaluate(
        """() => {
          window.said = [];
          const state = document.querySelector("[role=status]");
          const note = () => said.push(state.textContent);
          new MutationObserver(note).observe(state, { childList: true, characterData: true, subtree: true });
        }"""
    )
    log = page.get_by_role("log")
    ask(page)
    wait_for_some(page)
    assert log.get_attribute("aria-busy") == "true"
    wait_for_the_end(page)
    assert log.get_attribute("aria-busy") == "false"
    said = page.evaluate("said")
    assert said[-1] == "Ready"
    assert len(said) <= 5, said


def test_the_keyboard_is_enough(page: Page, fleet: Fleet) -> None:
    open_page(page, fleet, "scripted?tokens=20&interval_ms=5&tool_after=3")
    page.keyboard.type("hello")  # the box has the focus
    page.keyboard.press("Enter")
    assert wait_for_the_end(page) == words(20)
    seen = []
    page.keyboard.press("Control+Home")
    for _ in range(30):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText")
        seen.append(name.strip())
    for name in ("New chat", "Conversation", "Edit", "Copy answer", "Copy link", "Regenerate", "Message"):
        assert name in seen, seen
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1


def test_the_scroll_follows_the_answer_until_its_reader_scrolls_up(page: Page, fleet: Fleet) -> None:
    page.set_viewport_size(PHONE)
    open_page(page, fleet, "scripted?tokens=1500&interval_ms=3")
    ask(page)
    log = page.get_by_role("log")
    distance = "(log) => log.scrollHeight - log.scrollTop - log.clientHeight"
    page.wait_for_function("() => document.querySelector('#log').scrollTop > 300")
    log.hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function(
        "() => { const log = document.querySelector('#log'); "
        "return log.scrollHeight - log.scrollTop - log.clientHeight > 150; }"
    )
    there = log.evaluate("(log) => log.scrollTop")
    assert wait_for_the_end(page) == words(1500)
    assert log.evaluate(distance) > 150
    assert abs(log.evaluate("(log) => log.scrollTop") - there) < 300


# -- pictures --------------------------------------------------------------------------------------------------------


def test_the_pictures_in_the_docs(page: Page, fleet: Fleet, provider: FakeProvider, tmp_path: Path) -> None:
    """Draws each; keeps it when asked to (`make screenshots`). What the docs link to must be there."""

    def draw(name: str) -> None:
        wanted = os.environ.get("TOKENRELAY_SCREENSHOTS") == "1"
        path = (SCREENSHOTS if wanted else tmp_path) / f"{name}.png"
        page.evaluate("() => { const log = document.querySelector('#log'); log.scrollTop = log.scrollHeight; }")
        page.screenshot(path=path)
        assert path.stat().st_size < 200_000
        assert (SCREENSHOTS / path.name).exists()

    provider.text = ANSWER
    dress(page, "light", DESKTOP)
    open_page(page, fleet, "neuroswitch")
    page.wait_for_function("() => document.querySelector('select').options.length > 3")
    draw("welcome")
    open_page(page, fleet, "scripted?tokens=40&interval_ms=40&tool_after=6")
    ask(page, "What is 6*7?")
    wait_for_some(page)
    page.get_by_role("button", name="Drop my connection").click()
    wait_for_the_end(page)
    page.evaluate("history.replaceState(null, '', '/?model=neuroswitch')")
    page.get_by_label("Model").select_option("neuroswitch")
    ask(page, "How do server-sent events differ from WebSockets?")
    page.wait_for_function("() => document.querySelectorAll('article').length === 2")
    wait_for_the_end(page)
    for name, scheme, size in LOOKS:
        dress(page, scheme, size)
        draw(name)
