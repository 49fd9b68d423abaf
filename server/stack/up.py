"""`tokenrelay up`: Redis, edge and worker on this machine, kept running; refuses to know what they say to each other.

up ─┬─ redis-server        unless TOKENRELAY_REDIS_URL names one
    ├─ python -m workers   each in a session of its own, so that a Ctrl-C in the terminal
    └─ python -m server    comes to us alone and they end in order: both of these, then Redis
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from tokenrelay.protocol.runtime.die_with_parent import tied
from tokenrelay.protocol.runtime.launcher import importable, role_command
from tokenrelay.protocol.runtime.redis_server import RedisUnavailable
from tokenrelay.protocol.runtime.settings import faults
from tokenrelay.server.access.auth import check_files
from tokenrelay.server.settings import Refused, Settings, check_exposure, parse_keys
from tokenrelay.server.stack import project
from tokenrelay.server.stack.embedded_redis import EmbeddedRedis

READY_TIMEOUT_S: Final = 60.0
LOCAL_GRACE_S: Final = 20.0  # how long a listed `local` may take to load before another model will do
STILL_WAITING_S: Final = 3.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0  # lived this long: the next end is a new story, not the same one again
TRIES_BEFORE_READY: Final = 4
STOP_MARGIN_S: Final = 10.0  # on top of the drain: the time both take to say goodbye and to write what they hold


class CannotStart(Exception):
    """Said before anything was started, or after all of it was stopped again; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    workers: int = 1
    edges: int = 1

    @property
    def reached_at(self) -> str:
        """The host as this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        host = f"[{self.reached_at}]" if ":" in self.reached_at else self.reached_at
        return f"http://{host}:{self.port}"


def main(plan: Plan) -> int:
    """Runs until told to stop; the exit code."""
    try:
        own = project.catalogue_of(Path.cwd())
        if own is not None and not os.environ.get("TOKENRELAY_CATALOGUE"):
            say(f"using the catalogue {own.name} of this folder")
            os.environ["TOKENRELAY_CATALOGUE"] = str(own)
        settings = Settings(host=plan.host, port=plan.port)
        check_exposure(settings)
        check_files(settings)
        plan = replace(plan, port=free_port(plan))
        return asyncio.run(up(plan, settings))
    except ValidationError as error:
        # Not the error as it prints itself: that shows what was given, and one of the settings is secret.
        trouble = faults(error)
    except (CannotStart, Refused, RedisUnavailable) as error:
        trouble = [str(error)]
    print("\n".join(f"tokenrelay: {line}" for line in trouble), file=sys.stderr)
    return 1


async def up(plan: Plan, settings: Settings) -> int:
    """The stack until the first SIGINT, SIGTERM or SIGHUP; 0 then. Raises CannotStart, RedisUnavailable."""
    hurry = asyncio.Event()
    stack = asyncio.create_task(run(plan, settings, hurry))

    def stop() -> None:
        if stack.cancelling():
            hurry.set()
        else:
            say(f"stopping; answers being written get up to {settings.drain_s:g} s (once more: at once)")
            stack.cancel()

    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(sig, stop)
    try:
        await stack
    except asyncio.CancelledError:
        say("stopped")
    return 0


async def run(plan: Plan, settings: Settings, hurry: asyncio.Event) -> None:
    """Starts in order, watches until cancelled, stops in reverse."""
    timeout_s = settings.drain_s + STOP_MARGIN_S
    began = time.monotonic()
    async with redis_url() as (url, redis):
        environment = child_environment(os.environ, plan, url, settings.drain_s)
        worker = Role("worker", tied_role("workers", plan.workers), environment, hurry, timeout_s)
        edge = Role("edge", tied_role("server", plan.edges), environment, hurry, timeout_s)
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                if redis is not None:
                    group.create_task(keep_redis(redis))
                for role, count in ((worker, plan.workers), (edge, plan.edges)):
                    say(f"starting {f'{count} {role.name}s' if count > 1 else f'the {role.name}'}")
                    group.create_task(role.keep())
                model = await until_ready(plan, first_secret(settings))
                worker.is_proven = edge.is_proven = True
                say(f"started in {time.monotonic() - began:.1f} s")
                print(welcome(plan, model, bool(settings.api_keys)), flush=True)
        except* (CannotStart, RedisUnavailable) as group_of_errors:
            failure = group_of_errors.exceptions[0]
        if failure is not None:
            raise failure


@contextlib.asynccontextmanager
async def redis_url() -> AsyncIterator[tuple[str, EmbeddedRedis | None]]:
    """Where the stack meets, and the Redis there if it is our own."""
    if given := os.environ.get("TOKENRELAY_REDIS_URL"):
        say("using the Redis that TOKENRELAY_REDIS_URL names")
        yield given, None
        return
    say("starting an embedded Redis (nothing is kept after the end)")
    async with EmbeddedRedis() as redis:
        yield redis.url, redis


async def keep_redis(redis: EmbeddedRedis) -> None:
    """Starts it again whenever it ends. Raises RedisUnavailable."""
    pause = FIRST_PAUSE_S
    while True:
        started = time.monotonic()
        code = await redis.wait()
        pause = pause_after(time.monotonic() - started, pause)
        say(f"Redis {ending(code)} and what it held is gone; starting it again in {pause:g} s")
        await asyncio.sleep(pause)
        pause *= 2
        await redis.start()


class Role:
    """One of the two commands, started again whenever it ends."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], hurry: asyncio.Event, timeout_s: float
    ) -> None:
        self.name = name
        self.is_proven = False  # until the stack was ready once, ending again and again means it never will be
        self._command = command
        self._environment = environment
        self._hurry = hurry  # set: whoever waits for us wants to wait no longer
        self._timeout_s = timeout_s
        self._process: Process | None = None  # None before the first start

    def __repr__(self) -> str:
        return f"<Role {self.name} | pid {self._process.pid if self._process else None}>"

    async def keep(self) -> None:
        """Until cancelled; by then it has ended, with all its processes. Raises CannotStart."""
        pause, tries = FIRST_PAUSE_S, 0
        try:
            while True:
                started = time.monotonic()
                code = await self._once()
                pause = pause_after(time.monotonic() - started, pause)
                tries += 1
                if tries >= TRIES_BEFORE_READY and not self.is_proven:
                    raise CannotStart(f"the {self.name} {ending(code)}, {tries} times before it was ready; see above")
                say(f"the {self.name} {ending(code)}; starting it again in {pause:g} s")
                await asyncio.sleep(pause)
                pause *= 2
        finally:
            await self._end()

    async def _once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=DEVNULL,
            stdout=2,  # its log; our own standard output is ours
            start_new_session=True,
        )
        code = await self._process.wait()
        kill_group(self._process)  # processes of its own that it left would keep the port
        return code

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            await first_of(self._timeout_s, process.wait(), self._hurry.wait())
        kill_group(process)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 1)


async def first_of(timeout_s: float, *waits: Any) -> None:
    """Until one of them is there, or the time is up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def kill_group(process: Process) -> None:
    """SIGKILL for all that is left of a session started by us; its id is that of its first process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, for zombies
        os.killpg(process.pid, signal.SIGKILL)


def pause_after(lived_s: float, pause: float) -> float:
    """How long to wait before the next start, given the pause that would be next."""
    return FIRST_PAUSE_S if lived_s >= STEADY_S else min(pause, LONGEST_PAUSE_S)


def ending(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def tied_role(package: str, processes: int) -> list[str]:
    """The role's command, tied to our life: one process can simply be killed with us, one that has processes of its own
    is asked to end, so that it ends them."""
    command = role_command(package, "--processes", str(processes))
    return tied(command, signal.SIGKILL if processes == 1 else signal.SIGTERM)


def child_environment(ours: Mapping[str, str], plan: Plan, redis_url: str, drain_s: float) -> dict[str, str]:
    unless_said_otherwise = {
        "TOKENRELAY_SCRIPTED": "1",
        "TOKENRELAY_WARM": "1",  # whoever has just started it asks something at once
        "TOKENRELAY_LOG_LEVEL": "WARNING",
        "TOKENRELAY_HANDLERS_REQUIRED": "0",  # one that is being written must not take the others away
        "TOKENRELAY_FINISH_S": f"{drain_s:g}",  # who waits in front of a terminal waits for both the same while
    }
    where = {"TOKENRELAY_REDIS_URL": redis_url, "TOKENRELAY_HOST": plan.host, "TOKENRELAY_PORT": str(plan.port)}
    return unless_said_otherwise | importable(ours) | where


def free_port(plan: Plan) -> int:
    """The port, found free now. Raises CannotStart, before anything slow has begun.

    An edge listens with SO_REUSEPORT and would share a busy port with whoever is there without a word.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            plan.host or None, plan.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT are no listener
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CannotStart(port_trouble(plan, error)) from None


def port_trouble(plan: Plan, error: OSError) -> str:
    another = plan.port + 1 if 1024 <= plan.port < 65535 else 8000
    choose = f"Choose another: tokenrelay up --port {another} (make run PORT={another})"
    if error.errno == errno.EADDRINUSE:
        return f"port {plan.port} is already in use on {plan.host}. {choose}"
    if error.errno == errno.EACCES:
        return f"port {plan.port} is not for this user. {choose}"
    return f"cannot listen on {plan.host} port {plan.port}: {error.strerror or error}"


async def until_ready(plan: Plan, secret: str | None) -> str:
    """The id of a model that answers. Raises CannotStart after READY_TIMEOUT_S."""
    started = time.monotonic()
    said, saw = started, "no answer"
    while (waited := time.monotonic() - started) < READY_TIMEOUT_S:
        model, saw = await asyncio.to_thread(look, plan, secret, waited > LOCAL_GRACE_S)
        if model is not None:
            return model
        if time.monotonic() - said > STILL_WAITING_S:
            said = time.monotonic()
            say(f"still waiting, {waited:.0f} s: {saw}")
        await asyncio.sleep(0.1)
    raise CannotStart(f"not ready after {READY_TIMEOUT_S:.0f} s: {saw}")


def look(plan: Plan, secret: str | None, any_will_do: bool) -> tuple[str | None, str]:
    """One look from outside: a model that can be asked (None: not yet), and what was seen. Bounded: a few seconds."""
    body = ""
    try:
        for path in ("/readyz", "/api/models"):
            status, body = get(plan, path, secret)
            if status != 200:
                return None, f"GET {path} says {status} {body[:200]!r}"
        listing = json.loads(body)["models"]
        return choose_model(listing, any_will_do), why_not_local(listing)
    except (OSError, http.client.HTTPException):
        return None, f"nothing answers at {plan.url}"
    except (ValueError, KeyError, TypeError):
        return None, f"GET /api/models says {body[:200]!r}"


def get(plan: Plan, path: str, secret: str | None) -> tuple[int, str]:
    # http.client asks no environment for a proxy, which would know nothing of our loopback.
    connection = http.client.HTTPConnection(plan.reached_at, plan.port, timeout=2)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {secret}"} if secret else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def choose_model(models: list[dict[str, Any]], any_will_do: bool) -> str | None:
    """`local` where it is listed, once it is available; another available one where it is not, or any will do."""
    available = {str(model["id"]): bool(model["available"]) for model in models}
    if available.get("local"):
        return "local"
    if "local" in available and not any_will_do:
        return None
    return next((name for name, is_available in available.items() if is_available), None)


def why_not_local(models: list[dict[str, Any]]) -> str:
    reasons = [str(model.get("unavailable_because", "not available yet")) for model in models if model["id"] == "local"]
    return f"the local model: {reasons[0]}" if reasons else "no model is available"


def first_secret(settings: Settings) -> str | None:
    return next(iter(parse_keys(settings.api_keys).values()), None)


def welcome(plan: Plan, model: str, needs_key: bool) -> str:
    body = json.dumps({"message": "Tell me about the sea.", "model": model, "stream": True})
    key = """ -H "Authorization: Bearer $KEY" """.rstrip() if needs_key else ""
    return f"""
Tokenrelay is ready.

  Chat page   {plan.url}/?model={model}
  Terminal    curl -N {plan.url}/api/chat{key} -H 'Content-Type: application/json' -d '{body}'
  Stop        Ctrl-C
"""


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more (`tokenrelay up | head`); a stop goes on in any case
        print(f"tokenrelay: {text}", flush=True)
