"""The docs site builds strictly, holds every page, and a link that leads nowhere stops the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml")


def build(source: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does."""
    return subprocess.run(
        [sys.executable, "-W", "default", "-m", "mkdocs", "build", "--site-dir", str(into)],
        cwd=source,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists(), page
    for elsewhere in ("index", "reference", "clients-javascript", "clients-python", "security", "changelog"):
        assert (site / f"{elsewhere}.html").exists(), elsewhere


def test_no_table_and_no_list_is_shown_as_text(site: Path) -> None:
    """Markdown that GitHub takes and the site's reader does not: a table or a list without an empty line before it."""
    for page in site.glob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            assert not re.search(r"^(\||- |\d+\. )", paragraph, re.MULTILINE), f"{page.name}: {paragraph[:200]}"


def test_pages_fetch_nothing_from_other_hosts(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)\b[^>]*src=\"?https?:", text), page.name
        assert not re.findall(r"<link\b[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*href=\"?https?:", text), page.name


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("[x](missing.md)", "links to missing.md, which is not there"),
        ("[x](../missing.py)", "links to ../missing.py, which is not there"),
        ("[x](design.md#missing)", "does not contain an anchor"),
        ("![x](screenshots/missing.png)", "links to screenshots/missing.png, which is not there"),
    ],
)
def test_a_broken_link_stops_the_build(tmp_path: Path, wrong: str, complaint: str) -> None:
    for name in OUTSIDE:
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "protocol", "clients", "deploy", "examples", "loadtest", "server", "workers", "tests"):
        if name == "docs":
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs" / "concepts.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{wrong}\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert complaint in built.stderr
