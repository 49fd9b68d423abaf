"""The scenarios: which users, how fast, and how the rate changes. Tables and pure functions; no clock, no locust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

Shape: TypeAlias = Callable[[float], float]
"""Share of the run that is over (0–1) → share of the full rate."""


def steady(_: float) -> float:
    return 1.0


def ramp(over: float) -> float:
    """From a tenth to all of it."""
    return 0.1 + 0.9 * over


def spike(over: float) -> float:
    """A quiet fifth, with all of it in the third fifth only."""
    return 1.0 if 0.4 <= over < 0.6 else 0.2


def storm(over: float) -> float:
    """All of them arrive in the first half; the second half is for the drops."""
    return 1.0 if over < 0.5 else 0.0


def soak(over: float) -> float:
    """Up for a twentieth, then level."""
    return min(1.0, 0.1 + 18 * over)


SHAPES: Final[dict[str, Shape]] = {shape.__name__: shape for shape in (steady, ramp, spike, storm, soak)}

USERS: Final = ("SseChat", "WebSocketChat", "Resumer", "LateJoiner", "SlowReader", "Storm")


@dataclass(frozen=True)
class Scenario:
    """One row: `users` share the arrivals evenly."""

    users: tuple[str, ...]
    shape: str
    says: str
    model: str = "scripted?tokens=200&interval_ms=20"
    rate: float = 10.0
    duration_s: float = 30.0


SCENARIOS: Final[dict[str, Scenario]] = {
    "steady": Scenario(("SseChat", "WebSocketChat"), "steady", "chats over both transports at one rate"),
    "ramp": Scenario(("SseChat", "WebSocketChat"), "ramp", "the same from a tenth of the rate to all of it", rate=40),
    "spike": Scenario(("SseChat", "WebSocketChat"), "spike", "the same, five times as many for a fifth", rate=50),
    "storm": Scenario(("Storm",), "storm", "all clients are cut off at the same moment and come back at once", rate=40),
    "soak": Scenario(USERS, "soak", "everybody, for long", duration_s=1800),
    "resume": Scenario(("Resumer",), "steady", "drops at random, back over either transport, every byte verified"),
    "late": Scenario(("LateJoiner",), "steady", "a second device joins in the middle of the answer"),
    "slow": Scenario(
        ("SlowReader", "SseChat"), "steady", "readers that hardly read, beside some that do",
        model="scripted?tokens=2000&interval_ms=2", rate=4,
    ),
}  # fmt: skip


def listing() -> str:
    """For `--help`."""
    rows = (
        f"  {name:<8} {row.says}\n           {', '.join(row.users)}; {row.rate:g} streams/s for {row.duration_s:g} s"
        for name, row in SCENARIOS.items()
    )
    return "scenarios:\n" + "\n".join(rows)
