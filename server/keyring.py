"""API keys: which secret is whose. Keeps digests only; knows no request and no stream.

A file of keys has one line a key, `NAME SHA256-OF-SECRET CREATED`; `#` begins a comment. It is read again when it
changes.
A secret made here has 256 random bits, so that a plain digest cannot be turned back; those of TOKENRELAY_API_KEYS are
digested as well.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

LOOK_AGAIN_S: Final = 1.0
PREFIX: Final = "tr_"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")

log = structlog.get_logger()


class BadKeys(ValueError):
    """A file of keys, or a wish to change it, that cannot be; the text shows no secret."""


class Key(msgspec.Struct, frozen=True):
    """One line of the file."""

    name: str
    digest: str
    created: str


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def parse(text: str) -> list[Key]:
    """The keys of a file. Raises BadKeys that names the line."""
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) not in (2, 3) or not _NAME.match(words[0]) or not _DIGEST.match(words[1]):
            raise BadKeys(f"line {number}: expected NAME SHA256-OF-SECRET CREATED")
        if any(key.name == words[0] for key in keys):
            raise BadKeys(f"line {number}: the name {words[0]!r} stands there twice")
        keys.append(Key(words[0], words[1], words[2] if len(words) == 3 else "-"))
    return keys


class KeyRing:
    """The keys of the settings and, if there is one, of a file. Raises BadKeys or OSError when that cannot be read."""

    def __init__(self, given: dict[str, str], file: Path | None) -> None:
        self._given = {name: digest_of(secret) for name, secret in given.items()}
        self._file = file  # None: there are only those of the settings
        self._mark: tuple[int, int] | None = None  # of the file as it was read last: (mtime in ns, size)
        self._digests: dict[str, str] = {}
        self._looked_at = 0.0  # by the monotonic clock
        self._read()

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._digests)} keys>"

    @property
    def is_needed(self) -> bool:
        """False only where neither keys nor a file were set: then nobody needs one."""
        return bool(self._given) or self._file is not None

    def owner_of(self, secret: str) -> str | None:
        """Whose it is. All keys are compared each time, so that the time taken tells nothing."""
        self._read_if_changed()
        digest, found = digest_of(secret), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _read_if_changed(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = now
        try:
            if _mark(self._file) != self._mark:
                self._read()
                log.info("keys_read_again", keys=len(self._digests))
        except (BadKeys, OSError) as error:
            # The keys that were good stay good: a slip of an editor must not lock everybody out.
            log.error("keys_unreadable", error=str(error))

    def _read(self) -> None:
        if self._file is None:
            self._digests = self._given
            return
        mark = _mark(self._file)
        read = {key.name: key.digest for key in parse(self._file.read_text(encoding="utf-8"))}
        self._digests, self._mark = {**read, **self._given}, mark


def add(file: Path, name: str) -> str:
    """A new key in the file, which is made if need be; gives the secret, which is nowhere else. Raises BadKeys."""
    if not _NAME.match(name):
        raise BadKeys("a name has 1 to 64 letters, digits, dots, dashes or underscores")
    keys = read_file(file)
    if any(key.name == name for key in keys):
        raise BadKeys(f"there is a key called {name!r} already; revoke it first")
    secret = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _write(file, [*keys, Key(name, digest_of(secret), created)])
    return secret


def revoke(file: Path, name: str) -> None:
    """Away with a key; edges notice within about a second. Raises BadKeys when there is none of that name."""
    keys = read_file(file)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise BadKeys(f"there is no key called {name!r}")
    _write(file, left)


def read_file(file: Path) -> list[Key]:
    return parse(file.read_text(encoding="utf-8")) if file.exists() else []


def _write(file: Path, keys: list[Key]) -> None:
    """In one step, so that no edge reads half of it; for its owner's eyes only."""
    text = "# Keys of Tokenrelay: NAME SHA256-OF-SECRET CREATED\n"
    text += "".join(f"{key.name} {key.digest} {key.created}\n" for key in keys)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def _mark(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
