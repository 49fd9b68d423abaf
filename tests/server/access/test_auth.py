"""Who is asking, by each kind of credential and each configuration; no Redis is reached."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest

from tests.stores import open_store
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.access import api_keys, watched_file
from tokenrelay.server.access.api_keys import KeyLimits
from tokenrelay.server.access.auth import ANYBODY, Auth, Identity, check_files
from tokenrelay.server.settings import Refused, Settings, check_exposure

SECRET = "an operator's secret of 32 letters"


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


def auth(**given: object) -> Auth:
    return Auth(settings(**given), open_store("unix:///nowhere/redis.sock"))


def token(subject: str = "ann") -> str:
    return jwt.encode({"sub": subject, "exp": time.time() + 60}, SECRET, "HS256")


def refused(asked: Auth, authorization: str | None) -> bool:
    try:
        asked.identify(authorization)
    except TokenrelayError as error:
        return error.code == "UNAUTHORIZED"
    return False


CONFIGURATIONS = ({"api_keys": "ann:a-secret"}, {"jwt_secret": SECRET}, {"api_keys": "a:b", "jwt_secret": SECRET})


@pytest.mark.parametrize("given", CONFIGURATIONS)
def test_whatever_is_configured_nobody_comes_in_without_it(given: dict[str, str]) -> None:
    asked = auth(**given)
    check_exposure(settings(host="0.0.0.0", **given))
    empty = ("Bearer", "Bearer ", "Basic YTpi", "ApiKey \t", "Bearer a b", "Bearer ..", f"ApiKey {token()}")
    for authorization in (None, "", *empty):
        assert refused(asked, authorization), authorization
    assert asked.has_ended(Identity(ANYBODY, "nobody"))


def test_with_nothing_configured_only_loopback_is_served() -> None:
    assert auth().identify(None) == Identity(ANYBODY, "nobody")
    for host in ("0.0.0.0", "::", "", "192.0.2.1", "example.org"):
        with pytest.raises(Refused):
            check_exposure(settings(host=host))
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(settings(host=host))
    # Who may verify tokens but has nothing to verify them with is as open.
    with pytest.raises(Refused):
        check_exposure(settings(host="0.0.0.0", jwt_issuer="https://id.example", jwt_audience="chat"))


def test_a_set_or_a_file_of_keys_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    for name in ("keys_file", "jwks_file"):
        with pytest.raises(Refused, match=f"TOKENRELAY_{name.upper()}"):
            check_files(settings(**{name: tmp_path / "missing"}))


def test_a_subject_is_never_taken_for_a_key_of_the_same_name() -> None:
    asked = auth(api_keys="ann:a-secret", jwt_secret=SECRET)
    by_key, by_token = asked.identify("ApiKey a-secret"), asked.identify(f"bearer {token()}")
    assert (by_key.owner, by_token.owner) == ("ann", "jwt:ann")
    with pytest.raises(ValueError, match="pair 1"):
        settings(api_keys="jwt:")
    assert settings(api_keys="jwt:ann:x").api_keys == "jwt:ann:x"  # its name is `jwt`, its secret `ann:x`
    assert auth(api_keys="jwt:ann:x").identify("Bearer ann:x").owner == "jwt"


def test_an_identity_ends_with_what_it_came_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "keys"
    secret = api_keys.add(file, "web")
    asked = auth(keys_file=file, jwt_secret=SECRET)
    by_key, by_token = asked.identify(f"Bearer {secret}"), asked.identify(f"Bearer {token()}")
    assert not asked.has_ended(by_key)
    assert not asked.has_ended(by_token)
    api_keys.revoke(file, "web")
    assert asked.has_ended(by_key)
    api_keys.add(file, "web")
    assert asked.has_ended(by_key)  # the name is given again, the secret is not
    assert refused(asked, f"Bearer {secret}")
    assert asked.has_ended(Identity("jwt:ann", "token", expires_at=time.time() - 1))
    with pytest.raises(TokenrelayError):
        asked.raise_if_ended(by_key)
    assert auth(keys_file=file).has_ended(by_token)  # tokens are taken no more


def test_limits_are_the_keys_own_and_else_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    own = api_keys.add(file, "own", KeyLimits(rate=5, max_output_tokens=0))
    plain = api_keys.add(file, "plain")
    asked = auth(
        keys_file=file, jwt_secret=SECRET, key_concurrency=1, key_rate=2, key_connections=3, max_output_tokens=4
    )
    found = [asked.limits(asked.identify(f"Bearer {secret}")) for secret in (own, plain, token("own"))]
    assert found == [KeyLimits(1, 5, 3, 0), KeyLimits(1, 2, 3, 4), KeyLimits(1, 2, 3, 4)]


def test_settings_show_no_secret() -> None:
    shown = repr(settings(api_keys="ann:planted", jwt_secret="planted" * 8, redis_url="redis://:planted@127.0.0.1/0"))
    assert "planted" not in shown
