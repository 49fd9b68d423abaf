"""The recipes that need a browser, in Chromium: those that are pages, whole after a drop and a reload; and HTTP/2."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.browser import react_package, stage
from tests.browser.conftest import chromium, page
from tests.fleet import ROOT, Fleet, until
from tests.needs import require
from tests.network import Proxy
from tests.recipes.book import recipe
from tests.recipes.nginx import Nginx
from tests.recipes.run import KEY, cancel, newest, running, snapshot
from tests.wire import words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

__all__ = ["page"]  # a fixture

CLIENT = ROOT / "clients" / "javascript"
ANSWER = words(40)

REACT_PAGE = """<!doctype html><meta charset="utf-8"><title>React</title><link rel="icon" href="data:,">
<script type="importmap">{"imports": {
  "react": "/react.js", "react-dom/client": "/react.js",
  "@tokenrelay/client": "/client/client.js", "@tokenrelay/client/react": "/client/react.js"
}}</script>
<div id="root"></div><script type="module" src="/app.js"></script>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def site(network: Proxy, site_port: int, tmp_path: Path) -> Iterator[str]:
    """`app.py` as it stands, with the pages of the recipes in its folder; gives its address."""
    public = tmp_path / "public"
    public.mkdir()
    (public / "eventsource.html").write_text(recipe("EventSource with a ticket", "html"))
    (public / "react.html").write_text(REACT_PAGE)
    (public / "app.js").write_text(recipe("React", "jsx"))
    shutil.copytree(CLIENT, public / "client", ignore=shutil.ignore_patterns("node_modules", "tests"))
    url = f"http://127.0.0.1:{site_port}"
    code = recipe("EventSource with a ticket", "python")
    with running("python", code, network.url, {"PORT": str(site_port)}, tmp_path):
        until(
            lambda: urllib.request.urlopen(f"{url}/my/edge", timeout=2).status == 200, "app.py does not answer", OSError
        )
        yield url


def wait_for_some(page: Page, selector: str) -> None:
    page.wait_for_function("(where) => document.querySelector(where)?.textContent.includes('w2 ')", arg=selector)


def test_an_event_source_comes_back_by_itself(page: Page, site: str, network: Proxy, fleet: Fleet) -> None:
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request) if "/api/streams/" in request.url else None)
    page.goto(f"{site}/eventsource.html")
    wait_for_some(page, "#answer")
    network.reset()
    page.get_by_text("reconnecting").wait_for()
    page.get_by_text("stop").wait_for()
    assert page.locator("#answer").text_content() == ANSWER == snapshot(fleet, newest(fleet))["text"]
    first, *more = (request.all_headers().get("last-event-id") for request in asked)
    assert first is None
    assert [int(number) >= 4 for number in more if number] == [True]  # started, w0, w1, w2


def test_an_event_source_whose_ticket_is_over_gets_another(page: Page, site: str, network: Proxy, fleet: Fleet) -> None:
    tickets: list[str] = []
    page.on("request", lambda request: tickets.append(request.url) if "/my/ticket" in request.url else None)
    page.goto(f"{site}/eventsource.html")
    wait_for_some(page, "#answer")

    def spoil(route: Route) -> None:
        route.continue_(url=route.request.url.partition("&ticket=")[0] + "&ticket=over")

    page.route("**/api/streams/**", spoil, times=1)
    network.reset()
    page.get_by_text("reconnecting").wait_for()
    page.get_by_text("stop").wait_for()
    assert page.locator("#answer").text_content() == ANSWER
    assert len(tickets) == 2


@pytest.fixture
def react(site: str, tmp_path: Path) -> str:
    modules = react_package.install(CLIENT / "package.json")
    require(modules, "npm with a network, for React")
    assert modules is not None
    (tmp_path / "public" / "react.js").write_text(react_package.as_module(modules))
    return f"{site}/react.html"


def test_the_react_recipe_survives_a_reload_and_a_drop(page: Page, react: str, network: Proxy, fleet: Fleet) -> None:
    def breaks_in_mid_answer(break_it: Callable[[], object]) -> None:
        page.get_by_role("button", name="Ask").click()
        page.get_by_role("button", name="Stop").wait_for()  # what was shown is reset
        wait_for_some(page, "article")
        break_it()
        page.get_by_role("status").get_by_text("done").wait_for()
        assert page.get_by_role("article").text_content() == ANSWER == snapshot(fleet, newest(fleet))["text"]

    def reload() -> None:
        network.silence(and_new_ones=False)  # so that the old page does not see the end first
        page.reload()

    page.goto(react)
    breaks_in_mid_answer(reload)
    breaks_in_mid_answer(network.reset)


def test_the_react_recipe_stops(page: Page, react: str, fleet: Fleet) -> None:
    page.goto(react)
    page.get_by_role("button", name="Ask").wait_for()
    page.evaluate(
        """() => {
          const button = (name) => [...document.querySelectorAll("button")].find((it) => it.textContent === name);
          const stop = new MutationObserver(() => button("Stop")?.click());
          stop.observe(document.body, { childList: true, subtree: true });
          button("Ask").click();
        }"""
    )
    page.get_by_role("status").get_by_text("done").wait_for()
    assert snapshot(fleet, newest(fleet))["state"] == "cancelled"


# -- behind nginx, over HTTP/2 -----------------------------------------------------------------------------------------

STREAMS = 12
"""Twice as many as a browser opens connections to one server over HTTP/1.1."""


@pytest.fixture
def tab(browser: Browser, nginx: Nginx) -> Iterator[Page]:
    """The chat page as nginx serves it over TLS; an error in its script fails the test."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(stage.PATIENCE_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


def test_twelve_streams_run_at_once(tab: Page, nginx: Nginx, fleet: Fleet) -> None:
    tab.goto(nginx.secure_url)
    code = recipe("Behind HTTP/2", "js")
    answers = tab.evaluate(
        f"""async (key) => {{
          {code}
          window.answers = answers;
          return answers.map(({{ word, id }}) => ({{ word, id }}));
        }}""",
        KEY,
    )
    ids = [answer["id"] for answer in answers]
    assert len(set(ids)) == STREAMS
    assert [answer["word"] for answer in answers] == ["w0 "] * STREAMS
    # All of them had their first word, and not one has ended: nobody waited for another's connection.
    assert [snapshot(fleet, name)["state"] for name in ids] == ["running"] * STREAMS
    for name in ids:
        cancel(fleet, name)
    tab.evaluate("Promise.all(answers.map(async ({ reader }) => { while (!(await reader.read()).done); }))")
    protocols = tab.evaluate(
        """performance.getEntriesByType("resource")
          .filter(({ name }) => name.endsWith("/api/chat")).map(({ nextHopProtocol }) => nextHopProtocol)"""
    )
    assert protocols == ["h2"] * STREAMS


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_the_chat_page_works_behind_nginx(tab: Page, nginx: Nginx, fleet: Fleet, transport: str) -> None:
    stage.choose_transport(tab, transport)
    sockets: list[str] = []
    tab.on("websocket", lambda socket: sockets.append(socket.url.partition("?")[0]))
    tab.goto(f"{nginx.secure_url}/?model={quote('scripted?tokens=40&interval_ms=10', safe='')}")
    tab.get_by_label("API key").fill(KEY)
    tab.keyboard.press("Enter")
    tab.get_by_role("dialog").wait_for(state="hidden")  # until then the question would be typed behind it
    stage.ask(tab)
    tab.get_by_role("article").last.get_by_text("w39").wait_for()
    assert stage.wait_for_the_end(tab) == ANSWER
    assert snapshot(fleet, newest(fleet))["text"] == ANSWER
    secure = nginx.secure_url.replace("https", "wss")
    assert sockets == ([f"{secure}/api/ws"] if transport == "websocket" else [])
