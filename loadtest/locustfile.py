"""For locust itself: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --scenario steady`; wiring only.

Distributed: one `--master --expect-workers 2 --sources 2` and two `--worker`, all with the same options; `--sources` is
how many of each user there are over all generators, and the rate is shared out among them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # locust puts the file's own folder there, not ours

from locust import events
from locust.runners import WorkerRunner

from tokenrelay.loadtest.arguments import count, model, positive
from tokenrelay.loadtest.report import as_text
from tokenrelay.loadtest.scenarios import SCENARIOS
from tokenrelay.loadtest.users import (
    ALL,
    LateJoiner,
    OpenRate,
    Resumer,
    SlowReader,
    SseChat,
    Storm,
    WebSocketChat,
    attach,
    load_from,
)
from tokenrelay.protocol.errors import TokenrelayError

__all__ = ["LateJoiner", "OpenRate", "Resumer", "SlowReader", "SseChat", "Storm", "WebSocketChat"]


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def options(parser: Any) -> None:
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="steady")
    parser.add_argument("--key", default="", is_secret=True, help="API key")
    parser.add_argument("--model", type=model, default="", help="default: the scenario's")
    parser.add_argument("--rate", type=positive, help="streams a second, all generators together")
    parser.add_argument("--duration", type=positive, help="seconds in which streams arrive")
    parser.add_argument("--sources", type=count, default=1, help="of each user, all generators together")


@events.init.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Any, **_: Any) -> None:
    chosen = environment.parsed_options
    try:
        load = load_from(chosen, environment.host or "http://127.0.0.1:8000")
    except (ValueError, TokenrelayError) as error:
        raise SystemExit(f"locustfile: error: {error}") from None  # locust would log anything else and go on
    environment.user_classes[:] = [ALL[name] for name in load.scenario.users]
    attach(environment, load)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def end(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return  # what it saw is its master's to tell
    load = environment.tokenrelay
    load.blame_the_lost()
    summary = load.run.record.summary()
    print(as_text(summary, load.health()), file=sys.stderr)
    if not summary["streams"]:
        print("no stream came: the rate is too low for the duration", file=sys.stderr)
    if load.run.record.trouble or not summary["streams"]:
        environment.process_exit_code = 1
