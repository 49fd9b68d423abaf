"""What time it is, in UTC and in any IANA time zone. Knows no place that is not one."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


class NoSuchZone(ValueError):
    """The name is no time zone; the message is for the model."""


def describe(now: datetime, zone: str | None) -> str:
    """A moment in UTC, and in a zone if one is named. Raises NoSuchZone.

    >>> describe(datetime(2026, 7, 1, 12, 0, tzinfo=UTC), "Europe/Paris")
    '2026-07-01T14:00:00+02:00 (Wednesday, Europe/Paris, CEST); UTC 2026-07-01T12:00:00Z'
    """
    at = now.astimezone(UTC)
    utc = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    if zone is None or zone.upper() == "UTC":
        return f"{utc} ({at:%A}, UTC)"
    try:
        local = at.astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder of the database, a path, a NUL
        raise NoSuchZone(f"no time zone is called {zone[:60]!r}; expected a name such as Europe/Paris") from error
    return f"{local.isoformat(timespec='seconds')} ({local:%A}, {zone}, {local:%Z}); UTC {utc}"
