"""What the benchmark's commands share: the output of their figures, and the line that says how they were measured."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenrelay.loadtest.arguments import file


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


def fill(page: Path, mark: str, text: str) -> None:
    """Put `text` between `<!-- mark -->` and `<!-- /mark -->` of a page. Raises ValueError when they are not there."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise ValueError(f"{page} has no <!-- {mark} --> … <!-- /{mark} -->")
    page.write_text(f"{before}{begin}{text.strip()}\n{end}{after}", encoding="utf-8")


def arguments(made: argparse.ArgumentParser, mark: str) -> None:
    """`--json` and `--doc`, which all commands have."""
    made.add_argument("--json", metavar="FILE", type=file, help="write everything there as well")
    made.add_argument(
        "--doc",
        metavar="FILE",
        type=marked(mark),
        help=f"put the tables into a page, between <!-- {mark} --> and its end",
    )
    made.set_defaults(mark=mark)


def marked(mark: str) -> Callable[[str], Path]:
    """An argument's type: a page that has the marks, so that a long run does not end in finding that it has not."""

    def page(text: str) -> Path:
        path = Path(text)
        known = path.read_text(encoding="utf-8") if path.is_file() else ""
        if f"<!-- {mark} -->\n" not in known or f"<!-- /{mark} -->" not in known:
            raise argparse.ArgumentTypeError(f"{text} is no page with <!-- {mark} --> and <!-- /{mark} -->")
        return path

    return page


def deliver(options: argparse.Namespace, whole: Mapping[str, Any], markdown: str) -> None:
    """Print it, and put it where the arguments say."""
    print(markdown, flush=True)
    if options.json:
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if options.doc:
        fill(options.doc, options.mark, markdown)
