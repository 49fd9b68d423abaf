"""API keys: which secret is whose. Keeps digests only; knows no request and no stream.

A file of keys has one line a key, `NAME SHA256-OF-SECRET CREATED [LIMIT=N …]`; `#` begins a comment. It is read again
when it changes. The limits are the fields of `KeyLimits`.
A secret made here has 256 random bits, so that a plain digest cannot be turned back; those of TOKENRELAY_API_KEYS are
digested as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tokenrelay.server.access.watched_file import Watched

PREFIX: Final = "tr_"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_LIMIT: Final = re.compile(r"([a-z_]+)=([0-9]{1,9})\Z", re.ASCII)


class BadKeys(ValueError):
    """A file of keys, or a change of it, that is not valid; the text shows no secret."""


class KeyLimits(msgspec.Struct, frozen=True):
    """What one key may: streams under way, starts a minute, connections to one edge process, the largest `max_tokens`.
    0: no limit; None: what the settings say."""

    concurrency: int | None = None
    rate: int | None = None
    connections: int | None = None
    max_output_tokens: int | None = None

    def __str__(self) -> str:
        given = msgspec.structs.asdict(self).items()
        return " ".join(f"{name}={value}" for name, value in given if value is not None)

    def over(self, defaults: KeyLimits) -> KeyLimits:
        """With the defaults where this one says nothing."""
        own = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(defaults, **own) if own else defaults


_FORM: Final = "NAME SHA256-OF-SECRET CREATED " + " ".join(f"[{name}=N]" for name in KeyLimits.__struct_fields__)


class Key(msgspec.Struct, frozen=True):
    """One line of the file."""

    name: str
    digest: str
    created: str
    limits: KeyLimits = KeyLimits()

    def __repr__(self) -> str:
        return f"<Key {self.name}>"

    @property
    def line(self) -> str:
        return f"{self.name} {self.digest} {self.created} {self.limits}".rstrip()

    def is_same(self, other: Key | None) -> bool:
        """The same secret, whatever its limits are now. False for a name that was revoked and given again."""
        return other is not None and self.created == other.created and hmac.compare_digest(self.digest, other.digest)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def parse(text: str) -> list[Key]:
    """The keys of a file. Raises BadKeys that names the line."""
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) < 2 or not _NAME.match(words[0]) or not _DIGEST.match(words[1]):
            raise BadKeys(f"line {number}: expected {_FORM}")
        if any(key.name == words[0] for key in keys):
            raise BadKeys(f"line {number}: the name {words[0]!r} stands there twice")
        keys.append(Key(words[0], words[1], words[2] if len(words) > 2 else "-", _limits(words[3:], number)))
    return keys


def _limits(words: list[str], number: int) -> KeyLimits:
    found = [_LIMIT.match(word) for word in words]
    given = {match[1]: int(match[2]) for match in found if match is not None}
    if len(given) != len(words) or not given.keys() <= set(KeyLimits.__struct_fields__):
        raise BadKeys(f"line {number}: expected {_FORM}")
    return KeyLimits(**given)


class ApiKeys:
    """The keys of the settings and, if there is one, of a file. Raises BadKeys or OSError when that cannot be read."""

    def __init__(self, given: dict[str, str], file: Path | None) -> None:
        self._given = {name: Key(name, digest_of(secret), "-") for name, secret in given.items()}
        # None: there are only those of the settings.
        self._file = None if file is None else Watched(file, self._with_given, self._still_there)

    def __repr__(self) -> str:
        return f"<ApiKeys {len(self._keys())} keys>"

    def __len__(self) -> int:
        return len(self._keys())

    @property
    def is_needed(self) -> bool:
        """False only where neither keys nor a file were set: then nobody needs one."""
        return bool(self._given) or self._file is not None

    def find(self, secret: str) -> Key | None:
        """The key with this secret. All are compared each time, so that the time taken tells nothing."""
        digest, found = digest_of(secret), None
        for key in self._keys().values():
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def named(self, name: str) -> Key | None:
        """As it is now; None when there is no key of that name (any more)."""
        return self._keys().get(name)

    def _keys(self) -> dict[str, Key]:
        return self._given if self._file is None else self._file.value()

    @property
    def trouble(self) -> str:
        """Why the file cannot be read now; "" when it can."""
        return "" if self._file is None else self._file.trouble

    def _with_given(self, raw: bytes) -> dict[str, Key]:
        return {**{key.name: key for key in parse(text_of(raw))}, **self._given}

    def _still_there(self, before: dict[str, Key], raw: bytes) -> dict[str, Key]:
        """Of a file with a line that cannot be read: no key is new; one whose line is gone, or has another secret now,
        is gone. Else it would depend on luck, on what else was done to the file, whether a revocation counts. A slip in
        a key's own line locks nobody out."""
        lines = [line.split(b"#", 1)[0].split() for line in raw.splitlines()]
        digests = {words[0]: words[1] if len(words) > 1 else b"" for words in lines if words}
        return {name: key for name, key in before.items() if name in self._given or _is_there(key, digests)}


def _is_there(key: Key, digests: dict[bytes, bytes]) -> bool:
    digest = digests.get(key.name.encode())
    if digest is None:
        return False
    return digest == key.digest.encode() or not _DIGEST.match(digest.decode("latin-1"))


def add(file: Path, name: str, limits: KeyLimits = KeyLimits()) -> str:  # noqa: B008  it is frozen
    """A new key in the file, which is made if need be; gives the secret, which is nowhere else. Raises BadKeys."""
    if not _NAME.match(name):
        raise BadKeys("a name has 1 to 64 letters, digits, dots, dashes or underscores")
    secret = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with _changing(file) as keys:
        if any(key.name == name for key in keys):
            raise BadKeys(f"there is a key called {name!r} already; revoke it first")
        keys.append(Key(name, digest_of(secret), created, limits))
    return secret


def revoke(file: Path, name: str) -> None:
    """Away with a key; edges notice within about a second. Raises BadKeys when there is none of that name."""
    with _changing(file) as keys:
        found = [key for key in keys if key.name == name]
        if not found:
            raise BadKeys(f"there is no key called {name!r}")
        keys.remove(found[0])


def read_file(file: Path) -> list[Key]:
    return parse(text_of(file.read_bytes())) if file.exists() else []


def text_of(raw: bytes) -> str:
    """A file's text. Raises BadKeys that names the line with a byte that is no UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadKeys(f"line {line}: a byte that is no UTF-8") from None


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[Key]]:
    """The keys of the file, written back when the block ends well. One process at a time: two that changed it at once
    would lose one change."""
    file = file.resolve()  # behind a link: the link stays one
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # of the folder: the file itself is replaced
        keys = read_file(file)
        yield keys
        _write(file, keys)
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(file: Path, keys: list[Key]) -> None:
    """In one step, so that no edge reads half of it. Owner and mode stay, whoever does this; a new file is for its
    owner's eyes only. Raises BadKeys where the owner cannot be kept: the edge would read it no more."""
    text = f"# Keys of Tokenrelay: {_FORM}\n" + "".join(f"{key.line}\n" for key in keys)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            if file.exists():
                before = file.stat()
                _keep_owner(out.fileno(), before)
                os.fchmod(out.fileno(), stat.S_IMODE(before.st_mode))
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(fresh).replace(file)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _keep_owner(descriptor: int, before: os.stat_result) -> None:
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) == (before.st_uid, before.st_gid):
        return
    try:
        os.fchown(descriptor, before.st_uid, before.st_gid)
    except PermissionError:
        raise BadKeys(
            f"the file belongs to user {before.st_uid}, group {before.st_gid}, which only they or root can keep so; "
            "nothing was changed"
        ) from None
