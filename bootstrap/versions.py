"""Says whether the three packages have one version, and whether it is a tag's; prints it.

python bootstrap/versions.py [v0.2.0]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PYTHON: Final = {
    "tokenrelay": "tokenrelay/__init__.py",
    "tokenrelay-client": "clients/python/tokenrelay_client/__init__.py",
}
ASSIGNMENT: Final = re.compile(r'^__version__(?:: \w+)? = "([^"]+)"$', re.MULTILINE)


def versions(root: Path = ROOT) -> dict[str, str]:
    """By package. Raises ValueError where a file has none."""
    found = {}
    for package, path in PYTHON.items():
        match = ASSIGNMENT.search((root / path).read_text(encoding="utf-8"))
        if match is None:
            raise ValueError(f'{path} has no line __version__ = "…"')
        found[package] = match[1]
    text = (root / "clients/javascript/package.json").read_text(encoding="utf-8")
    return {**found, "@tokenrelay/client": str(json.loads(text)["version"])}


def trouble(found: dict[str, str], tag: str | None) -> str | None:
    """What is wrong, or None."""
    said = ", ".join(f"{package} {version}" for package, version in found.items())
    if len(set(found.values())) > 1:
        return f"the packages have different versions: {said}"
    if tag is not None and {f"v{version}" for version in found.values()} != {tag}:
        return f"the tag is {tag}, and the packages are {said}"
    return None


def main(arguments: list[str]) -> int:
    found = versions()
    if wrong := trouble(found, arguments[0] if arguments else None):
        print(f"versions: {wrong}", file=sys.stderr)
        return 1
    print(next(iter(found.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
