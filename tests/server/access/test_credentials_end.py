"""Nothing outlives the credential that opened it, and the file of keys survives two hands, another user, a bad byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.fleet import Fleet
from tests.stores import open_store
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.access import api_keys, watched_file
from tokenrelay.server.access.api_keys import ApiKeys, BadKeys
from tokenrelay.server.access.auth import Auth, Identity
from tokenrelay.server.edge import Edge
from tokenrelay.server.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SECRET, OTHER = "s" * 40, "o" * 40


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(edges=0, workers=0) as started:
        yield started


FILE_METRIC = b'tokenrelay_files_unreadable{file="TOKENRELAY_KEYS_FILE"}'


def signed(secret: str) -> str:
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 900}, secret, algorithm="HS256")


BEFORE_AND_AFTER: list[tuple[str, dict[str, Any], dict[str, Any], Callable[[], str]]] = [
    ("a key's secret", {"api_keys": f"a:{SECRET}"}, {"api_keys": f"a:{OTHER}"}, lambda: SECRET),
    ("a token's secret", {"jwt_secret": SECRET}, {"jwt_secret": OTHER}, lambda: signed(SECRET)),
]


@pytest.mark.parametrize(("before", "after", "bearer"), [row[1:] for row in BEFORE_AND_AFTER])
def test_a_ticket_made_with_a_secret_that_was_changed_opens_nothing(
    fleet: Fleet, before: dict[str, Any], after: dict[str, Any], bearer: Callable[[], str]
) -> None:
    async def scene() -> None:
        redis = open_store(fleet.redis_url)
        old, same, new = (Auth(Settings.model_validate(given), redis) for given in (before, before, after))
        ticket = await old.ticket(old.identify(f"Bearer {bearer()}"), None)
        opened = await same.identify_with_ticket(None, ticket)
        assert not same.has_ended(opened)
        assert new.has_ended(opened)  # a socket that it opened before
        with pytest.raises(TokenrelayError, match="not valid any more"):
            await new.identify_with_ticket(None, ticket)
        payload = json.dumps(jwt.decode(ticket, options={"verify_signature": False}))
        assert api_keys.digest_of(SECRET)[:16] not in payload
        await redis.aclose()

    asyncio.run(scene())


def keyed(file: Path, *names: str) -> dict[str, str]:
    return {name: api_keys.add(file, name) for name in names}


def test_two_hands_at_once_lose_no_change(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    program = (
        "import sys; from tokenrelay.server.access import api_keys; from pathlib import Path\n"
        "for n in range(10): api_keys.add(Path(sys.argv[1]), f'{sys.argv[2]}-{n}')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    many = [subprocess.Popen([sys.executable, "-c", program, str(file), str(hand)], env=env) for hand in range(4)]
    assert [hand.wait(60) for hand in many] == [0] * 4
    assert len(api_keys.read_file(file)) == 40
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_owner_and_mode_stay(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keyed(file, "a")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 12_345, 54_321)  # as `sudo tokenrelay keys` finds it
    before = file.stat()
    keyed(file, "b")
    api_keys.revoke(file, "a")
    after = file.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_file_whose_owner_cannot_be_kept_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    keyed(file, "a")
    before = file.read_bytes()

    def refuse(*_: object) -> None:
        raise PermissionError

    real = os.fstat

    def another_owner(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[4] = 12_345
        return os.stat_result(found)

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "fstat", another_owner)
    with pytest.raises(BadKeys, match="nothing was changed"):
        api_keys.revoke(file, "a")
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys"
    link.symlink_to(tmp_path / "real" / "keys")
    keyed(link, "a")
    assert link.is_symlink()
    assert [key.name for key in api_keys.read_file(tmp_path / "real" / "keys")] == ["a"]


def test_a_bad_byte_is_said_by_line_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keyed(file, "a")
    spoilt = file.read_bytes() + b"# caf\xe9\n"
    file.write_bytes(spoilt)
    with pytest.raises(BadKeys, match="line 3"):
        api_keys.add(file, "b")
    with pytest.raises(BadKeys, match="line 3"):
        ApiKeys({}, file)
    assert file.read_bytes() == spoilt


@pytest.mark.parametrize("rubbish", [b"\xff\xfe", b"half a line", b"a" * 70 + b" b", b"\x00"])
def test_a_revocation_counts_whatever_else_was_done_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rubbish: bytes
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys"
    secrets = keyed(file, "revoked", "kept")
    known = ApiKeys({"own": SECRET}, file)
    opened = known.find(secrets["revoked"])
    assert opened is not None
    assert known.trouble == ""
    lines = file.read_bytes().splitlines()
    new = api_keys.digest_of("new").encode()
    file.write_bytes(b"\n".join([*(line for line in lines if b"revoked" not in line), b"new " + new, rubbish]))
    assert known.find(secrets["revoked"]) is None
    assert not opened.is_same(known.named("revoked"))
    assert known.find(secrets["kept"]) is not None
    assert known.find(SECRET) is not None
    assert known.find("new") is None  # nobody is let in by a file that cannot be read
    assert known.trouble
    file.write_bytes(b"\n".join(lines))
    assert known.find(secrets["revoked"]) is not None
    assert known.trouble == ""


def test_a_change_that_leaves_time_and_size_as_they_were_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys"
    secret = keyed(file, "a")["a"]
    known = ApiKeys({}, file)
    before = file.stat()
    file.write_bytes(file.read_bytes().replace(api_keys.digest_of(secret).encode(), b"0" * 64))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.find(secret) is None


def test_a_file_that_is_gone_is_told_of_and_locks_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys"
    secret = keyed(file, "a")["a"]
    auth = Auth(Settings(keys_file=file), open_store("unix:///nowhere/redis.sock"))
    file.unlink()
    assert isinstance(auth.identify(f"Bearer {secret}"), Identity)
    assert auth.trouble == ["TOKENRELAY_KEYS_FILE"]


def test_a_file_that_cannot_be_read_is_told_by_a_metric_while_that_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys"
    secret = keyed(file, "a")["a"]
    good = file.read_bytes()
    edge = Edge(Settings(keys_file=file), open_store("redis://127.0.0.1:1"))
    told = []
    for raw in (good, b"\xff\xfe", good):
        file.write_bytes(raw)
        with contextlib.suppress(TokenrelayError):
            edge.auth.identify(f"Bearer {secret}")  # whoever asks has the file looked at
        [line] = [each for each in edge.exposition.text().splitlines() if each.startswith(FILE_METRIC)]
        told.append(float(line.split()[-1]))
    assert told == [0, 1, 0]
