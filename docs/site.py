"""What the docs site adds to `docs/`: pages that live elsewhere in the repository, and links that work in both places.

A link in a page is relative to the page's place in the repository, so it works where the repository is browsed. For the
site it is turned into a link to the page, or to a copy of the file; a link to a folder becomes plain text. A link to
what is not there stops the build. MkDocs calls the functions (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = {
    "README.md": "index.md",
    "protocol/README.md": "reference.md",
    "clients/javascript/README.md": "clients-javascript.md",
    "clients/python/README.md": "clients-python.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository → page of the site."""
SOURCES: Final = {page: source for source, page in PAGES.items()}
COPIES: Final = "repository"
"""Folder of the site for files that a page links to and that are no pages."""

LINK: Final = re.compile(r"\[(?P<text>(?:[^\[\]]|!?\[[^\]]*\])*)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
FENCE: Final = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def source_of(page: str) -> str:
    """Where a page of the site lives in the repository."""
    return SOURCES.get(page, f"docs/{page}")


def page_of(source: str) -> str:
    """Where a file of the repository is in the site."""
    if source in PAGES:
        return PAGES[source]
    return source.removeprefix("docs/") if source.startswith("docs/") else f"{COPIES}/{source}"


def target_of(path: str, source: str) -> str:
    """The file of the repository that a link in `source` leads to. Raises PluginError when it is not there."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / target).exists():
        raise PluginError(f"{source} links to {path}, which is not there")
    return target


def links_of(markdown: str) -> list[str]:
    return [match["path"] for text in FENCE.split(markdown)[::2] for match in LINK.finditer(text)]


def for_the_site(markdown: str, page: str) -> str:
    """The page's text with its links turned into the site's."""
    source = source_of(page)

    def replace(match: re.Match[str]) -> str:
        text = LINK.sub(replace, match["text"])  # an image may be the text of a link
        target = target_of(match["path"], source)
        if (ROOT / target).is_dir():
            return text
        link = posixpath.relpath(page_of(target), posixpath.dirname(page) or ".")
        return f"[{text}]({link}{match['anchor'] or ''})"

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(replace, part) for part in parts[::2]]
    return "".join(parts)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for file in list(files.documentation_pages()):
        source = source_of(file.src_uri)
        for path in links_of((ROOT / source).read_text(encoding="utf-8")):
            target = target_of(path, source)
            copy = page_of(target)
            if (ROOT / target).is_file() and copy.startswith(f"{COPIES}/") and copy not in files.src_uris:
                files.append(File.generated(config, copy, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    del config, files
    return for_the_site(markdown, page.file.src_uri)
