"""Straight lines through measured points, by least squares. Knows no unit and no figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Line:
    """`y = fixed + each * x`. `r2` is how much of the spread it explains, 0 to 1; 1 where there is no spread."""

    fixed: float
    each: float
    r2: float

    def at(self, x: float) -> float:
        return self.fixed + self.each * x

    def formula(self, y: str, x: str) -> str:
        """`CPU = 12.3 + 0.045 x streams`"""
        sign = "-" if self.each < 0 else "+"
        return f"{y} = {self.fixed:.4g} {sign} {abs(self.each):.3g} × {x}"

    def to_object(self) -> dict[str, float]:
        return {"fixed": self.fixed, "each": self.each, "r2": self.r2}

    @classmethod
    def from_object(cls, value: dict[str, Any]) -> Line:
        return cls(float(value["fixed"]), float(value["each"]), float(value["r2"]))


def line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Raises ValueError for fewer than two points, or when all have one x."""
    if len(xs) != len(ys) or len(xs) < 2:
        raise ValueError(f"a line needs two points or more, got {len(xs)} and {len(ys)}")
    middle_x, middle_y = fmean(xs), fmean(ys)
    spread_x = sum((x - middle_x) ** 2 for x in xs)
    if not spread_x:
        raise ValueError("all points have the same x")
    each = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread_x
    fixed = middle_y - each * middle_x
    total = sum((y - middle_y) ** 2 for y in ys)
    left = sum((y - fixed - each * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Line(fixed, each, 1 - left / total if total else 1.0)
