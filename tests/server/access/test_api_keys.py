"""Keys in a file: made, found, taken away; never in clear, never locked out by a slip."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tokenrelay.server.access import api_keys, watched_file
from tokenrelay.server.access.api_keys import ApiKeys, BadKeys, KeyLimits, digest_of


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    return tmp_path / "keys"


def owner(ring: ApiKeys, secret: str) -> str | None:
    key = ring.find(secret)
    return None if key is None else key.name


def test_a_key_that_was_made_is_known_until_it_is_revoked(file: Path) -> None:
    first = api_keys.add(file, "web")
    ring = ApiKeys({"mobile": "from-the-settings"}, file)
    second = api_keys.add(file, "batch")
    owners = [owner(ring, secret) for secret in (first, second, "from-the-settings", "nonsense", "")]
    assert owners == ["web", "batch", "mobile", None, None]
    api_keys.revoke(file, "web")
    assert [owner(ring, first), owner(ring, second)] == [None, "batch"]
    assert [key.name for key in api_keys.read_file(file)] == ["batch"]


def test_the_file_holds_no_secret_and_is_for_its_owner_only(file: Path) -> None:
    secret = api_keys.add(file, "web")
    assert secret not in file.read_text()
    assert digest_of(secret) in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ring = ApiKeys({}, file)
    assert secret not in repr(ring)
    assert digest_of(secret) not in repr(ring.find(secret))


def test_a_slip_in_the_file_locks_nobody_out(file: Path) -> None:
    secret = api_keys.add(file, "web")
    ring = ApiKeys({}, file)
    good = file.read_text()
    for slip in ("web", "web short -", f"web {digest_of(secret)} - -", good + good):
        file.write_text(slip)
        assert owner(ring, secret) == "web", slip
        with pytest.raises(BadKeys, match="line "):
            ApiKeys({}, file)
    file.unlink()
    assert owner(ring, secret) == "web"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "x" * 65])
def test_a_name_is_a_plain_word(file: Path, name: str) -> None:
    with pytest.raises(BadKeys):
        api_keys.add(file, name)


def test_a_name_is_used_once_and_only_what_is_there_is_revoked(file: Path) -> None:
    api_keys.add(file, "web")
    with pytest.raises(BadKeys):
        api_keys.add(file, "web")
    with pytest.raises(BadKeys):
        api_keys.revoke(file, "mobile")


def test_an_empty_file_lets_nobody_in(file: Path) -> None:
    file.touch()
    ring = ApiKeys({}, file)
    assert ring.is_needed
    assert owner(ring, "") is None
    assert not ApiKeys({}, None).is_needed


def test_a_name_that_is_given_again_is_another_key_and_a_changed_limit_is_not(file: Path) -> None:
    secret = api_keys.add(file, "web")
    ring = ApiKeys({}, file)
    key = ring.find(secret)
    assert key is not None
    file.write_text(file.read_text().replace("\n", " rate=5\n").replace("# Keys", "# Some keys"))
    now = ring.named("web")
    assert now is not None
    assert (key.is_same(now), now.limits.rate) == (True, 5)
    api_keys.revoke(file, "web")
    assert not key.is_same(ring.named("web"))
    api_keys.add(file, "web")
    assert ring.named("web") is not None
    assert not key.is_same(ring.named("web"))


def test_limits_are_kept_and_stand_before_the_settings(file: Path) -> None:
    given = KeyLimits(concurrency=0, connections=3, max_output_tokens=500)
    api_keys.add(file, "web", given)
    api_keys.add(file, "plain")
    assert [key.limits for key in api_keys.read_file(file)] == [given, KeyLimits()]
    assert str(given) == "concurrency=0 connections=3 max_output_tokens=500"
    defaults = KeyLimits(7, 8, 9, 10)
    assert given.over(defaults) == KeyLimits(0, 8, 3, 500)
    assert KeyLimits().over(defaults) == defaults


@pytest.mark.parametrize("word", ["rate=-1", "rate=", "rate=1.5", "speed=1", "rate", "rate=1e3", "rate=٣", "__len__=1"])
def test_a_limit_that_cannot_be_names_its_line(file: Path, word: str) -> None:
    api_keys.add(file, "web")
    file.write_text(f"{file.read_text().rstrip()} {word}\n")
    with pytest.raises(BadKeys, match=r"line 2: .*\[max_output_tokens=N\]"):
        api_keys.read_file(file)
