"""Keys in a file: made, found, taken away; never in clear, never locked out by a slip."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from server import files, keyring
from server.keyring import BadKeys, KeyRing, digest_of


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "LOOK_AGAIN_S", 0.0)
    return tmp_path / "keys"


def test_a_key_that_was_made_is_known_until_it_is_revoked(file: Path) -> None:
    first = keyring.add(file, "web")
    ring = KeyRing({"mobile": "from-the-settings"}, file)
    second = keyring.add(file, "batch")
    owners = [ring.owner_of(secret) for secret in (first, second, "from-the-settings", "nonsense", "")]
    assert owners == ["web", "batch", "mobile", None, None]
    keyring.revoke(file, "web")
    assert [ring.owner_of(first), ring.owner_of(second)] == [None, "batch"]
    assert [key.name for key in keyring.read_file(file)] == ["batch"]


def test_the_file_holds_no_secret_and_is_for_its_owner_only(file: Path) -> None:
    secret = keyring.add(file, "web")
    assert secret not in file.read_text()
    assert digest_of(secret) in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in repr(KeyRing({}, file))


def test_a_slip_in_the_file_locks_nobody_out(file: Path) -> None:
    secret = keyring.add(file, "web")
    ring = KeyRing({}, file)
    good = file.read_text()
    for slip in ("web", "web short -", f"web {'0' * 64} - -", good + good):
        file.write_text(slip)
        assert ring.owner_of(secret) == "web", slip
        with pytest.raises(BadKeys, match="line "):
            KeyRing({}, file)
    file.unlink()
    assert ring.owner_of(secret) == "web"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "x" * 65])
def test_a_name_is_a_plain_word(file: Path, name: str) -> None:
    with pytest.raises(BadKeys):
        keyring.add(file, name)


def test_a_name_is_used_once_and_only_what_is_there_is_revoked(file: Path) -> None:
    keyring.add(file, "web")
    with pytest.raises(BadKeys):
        keyring.add(file, "web")
    with pytest.raises(BadKeys):
        keyring.revoke(file, "mobile")


def test_an_empty_file_lets_nobody_in(file: Path) -> None:
    file.touch()
    ring = KeyRing({}, file)
    assert ring.is_needed
    assert ring.owner_of("") is None
    assert not KeyRing({}, None).is_needed
