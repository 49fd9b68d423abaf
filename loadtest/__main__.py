"""`python -m loadtest SCENARIO`: parses the command line, runs one scenario and reports. Exit 0: nothing was lost,
repeated or failed; 1: something was; 2: it could not run."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokenrelay.loadtest.arguments import file, model, positive
from tokenrelay.loadtest.scenarios import SCENARIOS, listing
from tokenrelay.protocol.errors import TokenrelayError

if TYPE_CHECKING:
    from tokenrelay.loadtest.users import Load


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Loads a fleet with one scenario and verifies every token. Without --host it starts a fleet here.",
        epilog=f"{listing()}\n  overload more than two cores carry, with and without shedding; see `overload --help`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("scenario", metavar="SCENARIO", choices=list(SCENARIOS), help=", ".join(SCENARIOS))
    made.add_argument("--host", metavar="URL", help="an edge, or the balancer before them; default: a fleet of our own")
    made.add_argument("--key", help="API key")
    made.add_argument("--model", metavar="NAME", type=model, help="default: the scripted model as the scenario has it")
    made.add_argument("--rate", metavar="STREAMS_PER_S", type=positive, help="streams that arrive a second, at most")
    made.add_argument("--duration", metavar="S", type=positive, help="seconds in which streams arrive")
    made.add_argument("--report", metavar="FILE.html", type=file, help="write a report there, one file")
    made.add_argument("--json", metavar="FILE", type=file, help="write the figures there")
    made.set_defaults(sources=1)
    return made


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "overload":
        from tokenrelay.loadtest import overload

        return overload.main(words[1:])
    made = parser()
    options = made.parse_args(argv)
    try:
        from tokenrelay.loadtest.users import load_from  # not above: locust takes a second, and --help needs none of it
    except ImportError as error:
        made.error(f"the load test needs locust (requirements-dev.txt): {error}")
    try:
        with target(options.host) as url:
            load = load_from(options, url)
            check(load)
            run(load, options.scenario, url)
    except (Unusable, ValueError, TokenrelayError) as error:
        print(f"{made.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtest: stopped", file=sys.stderr)
        return 130
    return conclude(load, options, argv)


class Unusable(Exception):
    """The fleet cannot be loaded; the text says why."""


@contextlib.contextmanager
def target(host: str | None) -> Iterator[str]:
    """The given fleet, or one of our own for the while."""
    if host is not None:
        yield host
        return
    from tokenrelay.loadtest.fleet import CannotStart, Fleet

    say("starting a fleet: Redis, an edge, a worker")
    try:
        with Fleet() as fleet:
            yield fleet.url
    except CannotStart as error:
        raise Unusable(str(error)) from None


def check(load: Load) -> None:
    """Whether anything answers there, before the load begins. Raises Unusable, ValueError."""
    from tokenrelay.loadtest.wire import WireError, get_json

    try:
        get_json(load.run.target, "/api/models")
    except WireError as error:
        raise Unusable(f"{load.run.target.netloc} does not answer: {error}") from None


def run(load: Load, name: str, url: str) -> None:
    """Headless locust in this process, to the end of the last stream."""
    import gevent
    import locust.log
    from locust.env import Environment

    from tokenrelay.loadtest.users import ALL, OpenRate, attach

    locust.log.setup_logging("WARNING")
    classes = [ALL[user] for user in load.scenario.users]
    environment = Environment(user_classes=classes, shape_class=OpenRate(), host=url, stop_timeout=1)
    attach(environment, load)
    runner = environment.create_local_runner()
    say(f"{name}: {', '.join(load.scenario.users)} for {load.duration_s:g} s, model {load.run.model}")
    progress = gevent.spawn(tell, load)
    try:
        environment.events.test_start.fire(environment=environment)
        runner.start_shape()
        runner.shape_greenlet.join()
        environment.events.test_stop.fire(environment=environment)
    finally:
        progress.kill()
        runner.quit()


def tell(load: Load) -> None:
    """A line every two seconds."""
    import gevent

    while True:
        gevent.sleep(2)
        counts, ttft = load.run.record.counts, load.run.record.quantities["ttft_ms"]
        over = "" if load.elapsed_s < load.duration_s else "  (waiting for the last)"
        say(
            f"{load.elapsed_s:4.0f} s  {load.run.open} open  {counts['streams']} done  {counts['tokens']} tokens  "
            f"TTFT p50 {ttft.percentile(0.5):.1f} ms  {load.run.record.trouble} troubles{over}"
        )


def conclude(load: Load, options: argparse.Namespace, argv: list[str] | None) -> int:
    from tokenrelay.loadtest import machine, report

    record, health = load.run.record, load.health()
    summary: dict[str, Any] = record.summary()
    print(report.as_text(summary, health))
    about = {
        "scenario": options.scenario,
        "what": load.scenario.says,
        "model": load.run.model,
        "command": shlex.join(["python", "-m", "loadtest", *hide_key(sys.argv[1:] if argv is None else argv)]),
    }
    if options.json:
        whole = {"scenario": options.scenario, **summary, "generator": health, "machine": machine.describe()}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if options.report:
        options.report.write_text(report.as_html(record, health, about, machine.describe()), encoding="utf-8")
        say(f"report: {options.report}")
    if not summary["streams"]:
        say("no stream came: the rate is too low for the duration")
        return 1
    return 1 if record.trouble else 0


def hide_key(argv: list[str]) -> list[str]:
    """A report is passed on; the key in its command line must not be."""
    hidden = list(argv)
    for at, word in enumerate(argv):
        if word == "--key" and at + 1 < len(argv):
            hidden[at + 1] = "…"
        elif word.startswith("--key="):
            hidden[at] = "--key=…"
    return hidden


def say(text: str) -> None:
    print(f"loadtest: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
