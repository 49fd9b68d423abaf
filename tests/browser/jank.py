"""How smooth the chat page stays while a long answer is written: `python -m tests.browser.jank`.

Prints, for 10,000 tokens at 200 a second in headless Chromium: how much the main thread worked in each second
(processor time, `TaskDuration` of the DevTools protocol's Performance domain: script, style, layout, paint); its long
tasks after the page had loaded (https://www.w3.org/TR/longtasks-1/: over 50 ms by the clock, so a machine that does
something else makes more of them); the JavaScript heap after a collection.
Figures of one machine under one load: printed, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.browser.conftest import ARGUMENTS
from tests.browser.fake_provider import FakeProvider
from tests.fleet import Fleet
from tests.wire import words

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

BLOCKS = (
    "A paragraph of **some** words, `code` and [a link](https://example.org/), as models write them, %d.\n\n",
    "- an item of a list\n- and another, *longer* one, %d\n\n",
    "```js\nconst n = %d;\nreturn n + 1;\n```\n\n",
    "| name | value |\n|---|--:|\n| row | %d |\n\n",
)
CHARACTERS_PER_TOKEN = 4

SHOWN = "document.querySelector('article').textContent"
WATCH = """() => {
  window.long = [];
  new PerformanceObserver((list) => { for (const { duration } of list.getEntries()) long.push(duration); })
    .observe({ type: "longtask" });
}"""


def main() -> int:
    options = _options()
    with _fleet(options) as (fleet, model, wanted):
        figures = _measure(fleet, model, wanted, options)
    figures = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "text": options.text, **figures}
    print(json.dumps(figures, indent=2))
    return 0 if figures["exact"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.jank", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=200, help="tokens a second")
    parser.add_argument("--transport", choices=["sse", "websocket"], default="websocket")
    parser.add_argument(
        "--text", choices=["words", "markdown"], default="words",
        help="words: one paragraph without an end, by the scripted model; markdown: paragraphs, lists, code, tables",
    )  # fmt: skip
    return parser.parse_args()


@contextmanager
def _fleet(options: argparse.Namespace) -> Iterator[tuple[Fleet, str, str]]:
    """The processes, the model to ask and the text it will write."""
    if options.text == "words":
        with Fleet(edges=1, workers=1) as fleet:
            model = f"scripted?tokens={options.tokens}&interval_ms={1000 / options.rate:g}"
            yield fleet, model, words(options.tokens)
        return
    length = options.tokens * CHARACTERS_PER_TOKEN
    blocks = "".join(BLOCKS[number % len(BLOCKS)] % number for number in range(length // 40))[:length]
    with FakeProvider(blocks) as provider:
        provider.chunk, provider.pause_s = CHARACTERS_PER_TOKEN, 1 / options.rate
        with Fleet(edges=1, workers=1, env=provider.env) as fleet:
            yield fleet, "gpt-6.2-sol", blocks


def _measure(fleet: Fleet, model: str, wanted: str, options: argparse.Namespace) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, "--enable-precise-memory-info"])
        page = browser.new_page()
        devtools = page.context.new_cdp_session(page)
        # The thread's processor time, not the clock's: other processes then make no difference.
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(f"{fleet.urls[0]}/?model={quote(model, safe='')}")
        page.locator(f"input[value={options.transport}]").check()
        page.wait_for_function("() => document.querySelector('select').options.length > 3")
        page.evaluate(WATCH)
        heap_before = _heap(devtools)
        busy, seconds = _busy_seconds(page, devtools)
        kept = page.evaluate("JSON.parse(sessionStorage.getItem('tokenrelay.turns')).at(-1).text")
        long = page.evaluate("long")
        figures = {
            "chromium": browser.version,
            "transport": options.transport,
            "tokens": options.tokens,
            "seconds": round(seconds, 1),
            "main_thread_ms_per_second": {
                "mean": round(statistics.fmean(busy)),
                "max": round(max(busy)),
                "last_ten_mean": round(statistics.fmean(busy[-10:])),
            },
            "long_tasks": {"count": len(long), "longest_ms": round(max(long, default=0))},
            "heap_mb": {"before": round(heap_before / 1e6, 1), "after": round(_heap(devtools) / 1e6, 1)},
            "elements_in_the_answer": page.evaluate("document.querySelectorAll('article *').length"),
            "exact": kept == wanted,
        }
        browser.close()
        return figures


def _busy_seconds(page: Page, devtools: CDPSession) -> tuple[list[float], float]:
    """Milliseconds of work of the main thread in each second of the answer, and how long that took."""
    page.get_by_role("textbox").fill("hello")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    started = at = time.monotonic()
    before, busy = _metric(devtools, "TaskDuration"), []
    while page.get_by_role("button", name="Stop", exact=True).is_visible():
        page.wait_for_timeout(1000)
        now, value = time.monotonic(), _metric(devtools, "TaskDuration")
        busy.append((value - before) * 1000 / (now - at))
        at, before = now, value
        print(f"\r{at - started:.0f} s, {page.evaluate(SHOWN + '.length')} characters", end="", file=sys.stderr)
    print(file=sys.stderr)
    return busy, at - started


def _metric(devtools: CDPSession, name: str) -> float:
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == name))


def _heap(devtools: CDPSession) -> float:
    """Bytes in use once what nobody needs is gone."""
    devtools.send("HeapProfiler.collectGarbage")
    return _metric(devtools, "JSHeapUsedSize")


if __name__ == "__main__":
    sys.exit(main())
