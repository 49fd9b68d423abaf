"""Tokens of an identity provider: the right ones say whose they are, every forged or stale one is refused."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.access import watched_file
from tokenrelay.server.access.jwt import LEEWAY_S, MAX_SUBJECT, BadKeySet, Tokens, has_expired, parse_key_set

SECRET = "s" * 64
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE = "https://id.example", "tokenrelay"


def key_set(**private: Any) -> str:
    """The public halves, by kid."""
    keys = []
    for kid, key in private.items():
        algorithm = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
        name = "ES256" if algorithm is ECAlgorithm else "RS256"
        keys.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "alg": name, "use": "sig"})
    return json.dumps({"keys": keys})


def claims(**changes: Any) -> dict[str, Any]:
    made = {"sub": "ann", "exp": int(time.time()) + 60, "iss": ISSUER, "aud": AUDIENCE, **changes}
    return {name: value for name, value in made.items() if value is not None}


@pytest.fixture
def jwks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watched_file, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "jwks.json"
    file.write_text(key_set(r1=RSA, e1=EC))
    return file


@pytest.fixture
def tokens(jwks: Path) -> Tokens:
    return Tokens(SECRET, jwks, ISSUER, AUDIENCE)


def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(TokenrelayError) as caught:
        tokens.verify(token)
    assert caught.value.code == "UNAUTHORIZED"
    assert token not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(SECRET, "HS256", None), (RSA, "RS256", "r1"), (EC, "ES256", "e1"), (RSA, "RS256", None), (EC, "ES256", None)],
)
def test_a_good_token_says_whose_it_is_and_until_when(
    tokens: Tokens, key: Any, algorithm: str, kid: str | None
) -> None:
    said = claims()
    bearer = tokens.verify(jwt.encode(said, key, algorithm, headers={} if kid is None else {"kid": kid}))
    assert bearer.owner == "jwt:ann"
    assert bearer.expires_at == said["exp"] + LEEWAY_S
    assert not has_expired(bearer.expires_at)
    assert has_expired(time.time() - 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1}, {"exp": None}, {"sub": None}, {"sub": ""}, {"sub": "x" * (MAX_SUBJECT + 1)}, {"sub": 5},
        {"sub": "\ud800"}, {"sub": "a\nb"}, {"sub": "a\0"},
        {"aud": "another"}, {"aud": None}, {"iss": "https://evil.example"}, {"iss": None},
        {"nbf": int(time.time()) + 86_400}, {"exp": "soon"}, {"exp": 10**400},
    ],
)  # fmt: skip
def test_what_a_token_says_must_hold(tokens: Tokens, changes: dict[str, Any]) -> None:
    refused(tokens, jwt.encode(claims(**changes), SECRET, "HS256"))


def test_an_expired_one_is_told_apart_because_a_fresh_one_helps(tokens: Tokens) -> None:
    assert "expired" in refused(tokens, jwt.encode(claims(exp=int(time.time()) - 60), SECRET, "HS256"))


def test_a_signature_by_another_key_is_none(tokens: Tokens) -> None:
    refused(tokens, jwt.encode(claims(), "x" * 32, "HS256"))
    refused(tokens, jwt.encode(claims(), OTHER_RSA, "RS256", headers={"kid": "r1"}))
    refused(tokens, jwt.encode(claims(), RSA, "RS256", headers={"kid": "unknown"}))
    refused(tokens, jwt.encode(claims(), RSA, "RS256", headers={"kid": "e1"}))
    refused(tokens, jwt.encode(claims(), RSA, "RS512", headers={"kid": "r1"}))
    refused(tokens, jwt.encode(claims(), SECRET, "HS512"))


def unsigned(header: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims())]
    return ".".join([*parts, ""])


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 5, ["HS256"]])
def test_an_unsigned_token_is_none(tokens: Tokens, algorithm: object) -> None:
    refused(tokens, unsigned({"alg": algorithm, "typ": "JWT"}))


def test_a_public_key_is_no_shared_secret(jwks: Path) -> None:
    """The confusion of algorithms: HMAC with the text of a key that everybody may know."""
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    import hashlib
    import hmac

    for secret in (public, jwks.read_bytes(), b""):
        head = unsigned({"alg": "HS256", "kid": "r1"}).rpartition(".")[0]
        signature = base64.urlsafe_b64encode(hmac.new(secret, head.encode(), hashlib.sha256).digest()).rstrip(b"=")
        forged = f"{head}.{signature.decode()}"
        for verifier in (Tokens(SECRET, jwks, ISSUER, AUDIENCE), Tokens("", jwks, ISSUER, AUDIENCE)):
            refused(verifier, forged)


@pytest.mark.parametrize("token", ["", "..", "a.b.c", "é.é.é", "a" * 10_000, "e30.e30.e30", "\0.\0.\0"])
def test_what_is_no_token_at_all(tokens: Tokens, token: str) -> None:
    with pytest.raises(TokenrelayError):
        tokens.verify(token)


def test_the_set_is_read_again_and_a_slip_locks_nobody_out(tokens: Tokens, jwks: Path) -> None:
    old = jwt.encode(claims(), RSA, "RS256", headers={"kid": "r1"})
    new = jwt.encode(claims(), OTHER_RSA, "RS256", headers={"kid": "r2"})
    refused(tokens, new)
    jwks.write_text("{")
    assert tokens.verify(old).owner == "jwt:ann"
    jwks.write_text(key_set(r2=OTHER_RSA, extra=EC))
    assert tokens.verify(new).owner == "jwt:ann"
    refused(tokens, old)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"keys":5}', '{"keys":[]}', '{"keys":[5]}', '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}']
)
def test_a_set_without_a_usable_public_key_is_refused(text: str) -> None:
    with pytest.raises(BadKeySet):
        parse_key_set(text)


def test_keys_of_a_kind_that_is_not_known_are_left_out(jwks: Path) -> None:
    listed = json.loads(jwks.read_text())["keys"]
    new = [{"kty": "tomorrow"}, {"kty": "OKP", "crv": "X25519", "x": "AAAA"}, {**listed[1], "crv": "P-999"}]
    jwks.write_text(json.dumps({"keys": [*new, {**listed[0], "use": "enc"}, *listed]}))
    token = jwt.encode(claims(), RSA, "RS256", headers={"kid": "r1"})
    assert Tokens("", jwks, ISSUER, AUDIENCE).verify(token).owner == "jwt:ann"


def test_a_private_key_or_a_weak_one_does_not_belong_into_the_set(jwks: Path) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    private = [json.loads(RSAAlgorithm.to_jwk(RSA)), json.loads(ECAlgorithm.to_jwk(EC))]
    for keys in ([private[0]], [private[1]], json.loads(key_set(w=weak))["keys"]):
        with pytest.raises(BadKeySet) as caught:
            parse_key_set(json.dumps({"keys": [*keys, *json.loads(jwks.read_text())["keys"]]}))
        assert not [part for key in keys for part in key.values() if len(part) > 8 and part in str(caught.value)]


def test_without_a_secret_hs256_is_not_taken(jwks: Path) -> None:
    refused(Tokens("", jwks, "", ""), jwt.encode(claims(), SECRET, "HS256"))
    assert not Tokens("", None, "", "").is_on


def test_neither_issuer_nor_audience_need_be_asked_for(jwks: Path) -> None:
    assert Tokens(SECRET, None, "", "").verify(jwt.encode(claims(), SECRET, "HS256")).owner == "jwt:ann"
