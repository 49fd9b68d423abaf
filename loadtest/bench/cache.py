"""The benchmark's cache for other projects' packages: outside the repository, for the next run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 180.0
"""For one fetch."""


def folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/tokenrelay-bench/NAME`, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    made = Path(base) / "tokenrelay-bench" / name
    made.mkdir(parents=True, exist_ok=True)
    return made
