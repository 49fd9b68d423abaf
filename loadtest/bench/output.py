"""What the benchmark's commands share: arguments that are checked, and the line that says where numbers come from."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def file(text: str) -> Path:
    """One that can be written: its folder is there."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.absolute().parent}")
    return path


def command(name: str, argv: Sequence[str] | None) -> str:
    """As it can be typed again."""
    words = list(argv) if argv is not None else sys.argv[1:]
    return shlex.join(["python", "-m", "loadtest.bench", *([name] if name and words[:1] != [name] else []), *words])


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def provenance(whole: Mapping[str, Any]) -> str:
    """Command, machine, day; of an object with `command`, `machine` and perhaps `date`."""
    about = whole["machine"]
    where = f"{about['processor']}, {about['memory']}, {about['system']}, {about['python']}"
    return f"`{whole['command']}` on {where}; {whole.get('date') or today()}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
