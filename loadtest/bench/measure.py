"""How each figure is measured, against a fleet started for it. CPU is read from the server processes.

A measurement takes a `Size` and a kind of fleet and gives values by the names of table.FIGURES.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from tokenrelay.loadtest import dispatch, loop
from tokenrelay.loadtest.bench.builds import NaiveFleet, StockArqFleet
from tokenrelay.loadtest.bench.crowd import Remote
from tokenrelay.loadtest.figures import percentile
from tokenrelay.loadtest.fleet import Fleet

PATIENT: Final = {"TOKENRELAY_BETWEEN_TOKENS_TIMEOUT_S": "600", "TOKENRELAY_SEND_TIMEOUT_S": "600"}
PROBING_S: Final = 15.0
"""A machine that is overloaded answers fewer probes, it does not hold the table up."""

STOCK_PROBES: Final = 15
"""arq's own loop takes a second and more for each."""

PLAYED: Final = 160
"""Tokens of an answer that is played from start to end."""

FRONT_TURNS: Final = 3
"""Of each dialect: what disturbs the machine for a while disturbs both."""

SHORTEST: Final = "scripted?tokens=1&interval_ms=0"
READ: Final = 200
"""Tokens of an answer that many read, one every 50 ms."""

NAIVE_CARRIES: Final = 100
IDLE: Final = "scripted?tokens=10&interval_ms=0&stall_after=1"


@dataclass(frozen=True)
class Size:
    """How much of it: the real one, and a small one that only shows the way."""

    few: int = 10
    many: int = 2000
    probes: int = 200
    streams: int = 500
    window_s: float = 6
    free_streams: int = 50
    free_tokens: int = 4000
    viewers: int = 1000
    fan_tokens: int = 1000
    idle: int = 1000
    replays: int = 50
    cut_off: int = 1000
    stalled: int = 200
    stalled_tokens: int = 200_000
    pairs: int = 40
    starts: int = 600
    ladder: tuple[int, ...] = (20, 50, 100, 500)
    readers: int = 500


HANDLER: Final = Path(__file__).with_name("handler.toml")
FULL: Final = Size()
QUICK: Final = Size(10, 200, 50, 100, 3, 20, 1000, 200, 300, 200, 20, 200, 50, 60_000, 6, 100, (20, 50), 100)

Values: TypeAlias = dict[str, float]
Kind: TypeAlias = type[Fleet]
Measurement: TypeAlias = Callable[[Size, Kind], Values]


def dispatching(size: Size, kind: Kind) -> Values:
    is_naive = kind is NaiveFleet
    in_flight = [size.few] if is_naive else [size.few, size.many]
    with kind(env={"TOKENRELAY_GENERATION_TIMEOUT_S": "86400"}) as fleet, contextlib.redirect_stdout(io.StringIO()):
        if is_naive:  # it has no dispatch, and nothing to cancel with
            samples = loop.run(probe_many(fleet, size.probes))
            return {"ttft_idle_p50": percentile([ttft for _, ttft in samples], 0.5) * 1000}
        probes = min(size.probes, STOCK_PROBES) if kind is StockArqFleet else size.probes
        idle, busy = loop.run(dispatch.measure(dispatch.Target(fleet.url, None), in_flight, probes))
    return {
        "pickup_idle_p50": idle["pickup_ms_p50"],
        "pickup_idle_p99": idle["pickup_ms_p99"],
        "pickup_busy_p50": busy["pickup_ms_p50"],
        "pickup_busy_p99": busy["pickup_ms_p99"],
        "ttft_idle_p50": idle["ttft_ms_p50"],
        "ttft_growth": busy["ttft_ms_p50"] / idle["ttft_ms_p50"],
    }


def paced(size: Size, kind: Kind) -> Values:
    """So many streams at 20 tokens a second, one viewer each; then what a new one has to wait beside them."""
    if kind is NaiveFleet:
        size = replace(size, streams=size.streams // 5)  # a fifth is what it can carry
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        crowd.open("streams", size.streams, model="scripted?tokens=2000&interval_ms=50")
        time.sleep(1)
        before, cpu = crowd.ask("mark"), fleet.cpu_seconds()
        time.sleep(size.window_s)
        after, spent = crowd.ask("mark"), since(cpu, fleet)
        values = per_token("paced", spent, after["events"] - before["events"])
        samples = loop.run(probe_many(fleet, size.probes))
    ttft = [sample[1] * 1000 for sample in samples]
    return {**values, "ttft_loaded_p50": percentile(ttft, 0.5), "ttft_loaded_p99": percentile(ttft, 0.99)}


def play(size: Size, kind: Kind) -> Values:
    """Answers from start to end, ten begun every 50 ms, so many at once: CPU a token, starts included, and TTFT."""
    values: Values = {}
    for streams in size.ladder:
        if kind is NaiveFleet and streams > NAIVE_CARRIES:
            continue
        model = f"scripted?tokens={PLAYED}&interval_ms=50"
        with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
            warm(crowd)
            cpu = fleet.cpu_seconds()
            ttft = played(crowd, model, streams, at_once=10)
            spent = since(cpu, fleet)
            if streams == size.ladder[0]:
                alone = played(crowd, SHORTEST, size.probes // 2, at_once=1)
                values["play_ttft_alone"] = percentile(alone, 0.5)
        values[f"play_{streams}"] = sum(spent.values()) / streams / PLAYED * 1e6
        values[f"play_ttft_{streams}"] = percentile(ttft, 0.5)
    return values


def starts(size: Size, kind: Kind) -> Values:
    """What an answer of one token costs, ten begun every 50 ms: all that is paid once."""
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        warm(crowd)
        cpu = fleet.cpu_seconds()
        played(crowd, SHORTEST, size.starts, at_once=10)
        spent = since(cpu, fleet)
    return {"start_cpu": sum(spent.values()) / size.starts * 1e6} | {
        f"start_{part}": seconds / size.starts * 1e6 for part, seconds in spent.items()
    }


def warm(crowd: Remote) -> None:
    played(crowd, "scripted?tokens=20&interval_ms=5", 40, at_once=10)


def played(crowd: Remote, model: str, count: int, at_once: int) -> list[float]:
    """TTFT in ms. Raises RuntimeError when an answer had no token."""
    answer = crowd.ask("play", model=model, count=count, at_once=at_once, every_s=0.05)
    if answer["without_a_token"]:
        raise RuntimeError(f"{answer['without_a_token']} of {count} answers had no token")
    return list(answer["ttft_ms"])


def free(size: Size, kind: Kind) -> Values:
    """The model writes as fast as it can."""
    tokens = size.free_tokens if kind is Fleet else size.free_tokens // 8
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        cpu, begun = fleet.cpu_seconds(), time.perf_counter()
        crowd.open("streams", size.free_streams, model=f"scripted?tokens={tokens}&interval_ms=0")
        crowd.ask("wait", group="streams")
        took, spent = time.perf_counter() - begun, since(cpu, fleet)
    written = size.free_streams * tokens
    return {**per_token("free", spent, written), "free_rate": written / took / 1000}


def handler(size: Size, kind: Kind) -> Values:
    """The same from a handler of one's own, a part a token."""
    env = {"TOKENRELAY_CATALOGUE": str(HANDLER), "BENCH_PARTS": str(size.free_tokens)}
    with kind(env=env) as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        cpu = fleet.cpu_seconds()
        crowd.open("streams", size.free_streams, model="parts")
        crowd.ask("wait", group="streams")
        return per_token("handler", since(cpu, fleet), size.free_streams * size.free_tokens)


def front(size: Size, kind: Kind) -> Values:
    """A token over Chat Completions beside one over our own SSE, in turns at one fleet: paced, then as fast as the
    model can write."""
    turns = list(enumerate(("sse", "chat") * FRONT_TURNS))
    paced = f"scripted?tokens={round(20 * (size.window_s + 4))}&interval_ms=50"
    free = f"scripted?tokens={size.free_tokens}&interval_ms=0"
    spent = {name: {"paced": 0.0, "free": 0.0} for name in ("sse", "chat")}
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        for number, name in turns:
            crowd.open(f"paced{number}", size.streams * 2 // 5, model=paced, transport=name)
            time.sleep(1)
            before, cpu = crowd.ask("mark"), fleet.cpu_seconds()
            time.sleep(size.window_s)
            after, used = crowd.ask("mark"), since(cpu, fleet)
            spent[name]["paced"] += sum(used.values()) / (after["events"] - before["events"])
            crowd.ask("wait", group=f"paced{number}")
        for number, name in turns:
            cpu = fleet.cpu_seconds()
            crowd.open(f"free{number}", size.free_streams, model=free, transport=name)
            crowd.ask("wait", group=f"free{number}")
            spent[name]["free"] += sum(since(cpu, fleet).values())
    values = {f"front_{load}": spent["chat"][load] / spent["sse"][load] for load in ("paced", "free")}
    return values | {"front_cpu": spent["chat"]["paced"] / FRONT_TURNS * 1e6}


def fan_out(size: Size, kind: Kind) -> Values:
    """One stream of 500 tokens a second, all viewers there before its first."""
    tokens = size.fan_tokens if kind is Fleet else size.fan_tokens // 10
    wait_ms = 5_000 + 10 * size.viewers  # a busy machine needs some milliseconds for each
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        begun = time.perf_counter()
        model = f"scripted?tokens={tokens}&interval_ms=2&first_ms={wait_ms}"
        stream_id = crowd.open("writer", 1, model=model)
        crowd.open("viewers", size.viewers, stream_id=stream_id, transport=kind.transport, end_mark=kind.end_mark)
        if time.perf_counter() - begun > wait_ms / 1000:
            raise RuntimeError("the viewers were not all there before the first token")
        cpu = fleet.cpu_seconds()
        crowd.ask("wait", group="viewers")
        spent = since(cpu, fleet)
    return {"fan_out": size.viewers * tokens / spent["edge"] / 1000}


def reading(size: Size, kind: Kind) -> Values:
    """Viewers of one stream at reading speed: the edge's CPU an event, and how old an event is when it comes."""
    values: Values = {}
    for transport in ("sse", "ws") if kind is Fleet else ("sse",):
        end_mark = kind.end_mark if transport == "sse" else '"done":true'
        model = f"scripted?tokens={READ}&interval_ms=50&first_ms={5_000 + 10 * size.readers}"
        with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
            stream_id = crowd.open("writer", 1, model=model)
            crowd.open("readers", size.readers, stream_id=stream_id, transport=transport, end_mark=end_mark)
            cpu = fleet.cpu_seconds()
            ages = crowd.ask("ages", group="readers", every=10)["ages_ms"]
            spent = since(cpu, fleet)
        values[f"reading_{transport}"] = spent["edge"] / size.readers / READ * 1e6
        values[f"reading_{transport}_p50"] = percentile(ages, 0.5)
    return values


def idle_sse(size: Size, kind: Kind) -> Values:
    return {"idle_sse": idle_memory(size, kind, "sse")}


def idle_ws(size: Size, kind: Kind) -> Values:
    return {"idle_ws": idle_memory(size, kind, "ws")}


def idle_memory(size: Size, kind: Kind, transport: str) -> float:
    """KiB resident that one more connection costs, all following one silent stream."""
    with kind(env=PATIENT) as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        stream_id = crowd.open("writer", 1, model=IDLE)
        crowd.open("warm", 20, stream_id=stream_id, transport=transport)
        time.sleep(0.5)
        before = fleet.resident_bytes("edge")
        crowd.open("idle", size.idle, stream_id=stream_id, transport=transport)
        time.sleep(1)
        return (fleet.resident_bytes("edge") - before) / size.idle / 1024


def resume(size: Size, kind: Kind) -> Values:
    if kind.transport == "socketio":
        return {"replay_p50": percentile(recovered(size, kind), 0.5)}
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        stream_id = crowd.open("writer", 1, model="scripted?tokens=2000&interval_ms=0")
        crowd.ask("wait", group="writer")
        crowd.ask("replay", stream_id=stream_id, times=5, end_mark=kind.end_mark)
        took = crowd.ask("replay", stream_id=stream_id, times=size.replays, end_mark=kind.end_mark)["took_ms"]
        if kind is not Fleet:
            return {"replay_p50": percentile(took, 0.5)}
        stream_id = crowd.open("live", 1, model="scripted?tokens=3000&interval_ms=100")
        crowd.open("viewers", size.cut_off, stream_id=stream_id)
        time.sleep(1)
        whole = crowd.ask("cut_off", group="viewers", stream_id=stream_id)["whole_after_s"]
    return {"replay_p50": percentile(took, 0.5), "cut_off": max(whole)}


def recovered(size: Size, kind: Kind) -> list[float]:
    """The same 2,000 tokens where only a session that has been there can come back."""
    with kind() as fleet, Remote("127.0.0.1", fleet.port) as crowd:
        stream_id = crowd.open("writer", 1, model="scripted?tokens=2000&interval_ms=1&first_ms=2000")
        crowd.ask("leave_early", stream_id=stream_id, count=size.replays)
        crowd.ask("wait", group="writer")
        times: list[float] = crowd.ask("recover", stream_id=stream_id, times=size.replays)["took_ms"]
        return times


def stalled(size: Size, kind: Kind) -> Values:
    """Readers that take nothing of a long answer, and what they cost: memory, and the time of others' answers beside
    that at a second fleet without them. Both are asked in turn and each pair is compared: a machine that is slower for
    a while slows both."""
    fast = f"scripted?tokens={size.stalled_tokens}&interval_ms=0&first_ms=1500"
    free = f"scripted?tokens={size.free_tokens}&interval_ms=0"
    with (
        kind(env=PATIENT) as fleet, kind(env=PATIENT) as calm,
        Remote("127.0.0.1", fleet.port) as beside, Remote("127.0.0.1", calm.port) as alone,
        Remote("127.0.0.1", fleet.port) as stalled_readers,  # a process of their own: not they are measured
    ):  # fmt: skip
        runs = itertools.count()

        def answers(crowd: Remote, number: int, model: str, readers: Remote | None = None) -> float:
            group = f"others{next(runs)}"
            stream_id = crowd.open(group, number, model=model)
            if readers is not None:
                readers.open("stalled", size.stalled, stream_id=stream_id, reads=False)
            return percentile(crowd.ask("wait", group=group)["durations_ms"], 0.5)

        for crowd in (beside, alone):  # both are warm
            answers(crowd, 1, fast)
            answers(crowd, 20, free)
        resident = fleet.resident_bytes("edge")
        answers(alone, 1, fast)
        answers(beside, 1, fast, stalled_readers)
        time.sleep(1)
        memory = (fleet.resident_bytes("edge") - resident) / size.stalled / 1024
        ratios = []
        for number in range(size.pairs):
            order = (beside, alone) if number % 2 else (alone, beside)
            took = {crowd: answers(crowd, 20, free) for crowd in order}
            ratios.append(took[beside] / took[alone])
    return {"stalled_memory": memory, "stalled_slowing": (percentile(ratios, 0.5) - 1) * 100}


MEASUREMENTS: Final[tuple[Measurement, ...]] = (
    dispatching, play, starts, paced, free, handler, front, fan_out, reading, idle_sse, idle_ws, resume, stalled,
)  # fmt: skip


async def probe_many(fleet: Fleet, number: int) -> list[tuple[float, float]]:
    target = dispatch.Target(fleet.url, None)
    await dispatch.probe(target)
    samples: list[tuple[float, float]] = []
    deadline = time.monotonic() + PROBING_S
    while len(samples) < number and time.monotonic() < deadline:
        samples.append(await dispatch.probe(target))
        await asyncio.sleep(0.01)
    return samples


def since(before: dict[str, float], fleet: Fleet) -> dict[str, float]:
    return {part: value - before[part] for part, value in fleet.cpu_seconds().items()}


def per_token(name: str, spent: dict[str, float], tokens: int) -> Values:
    parts = {f"{name}_{part}": seconds / tokens * 1e6 for part, seconds in spent.items()}
    return {f"{name}_cpu": sum(parts.values()), **parts}
