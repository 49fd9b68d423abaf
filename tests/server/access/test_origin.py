"""Which pages may call, by table."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.access import origin
from tokenrelay.server.settings import Settings

OPEN = Settings()
KEYED = Settings(api_keys="a:b")
ALLOWING = Settings(api_keys="a:b", allowed_origins="https://app.example, https://other.example/")
ALL = Settings(api_keys="a:b", allowed_origins="*")

ROWS = [
    # name, settings, Host, Origin, may it
    ("a program on this machine", OPEN, "127.0.0.1:8000", None, True),
    ("by name", OPEN, "localhost:8000", None, True),
    ("by IPv6", OPEN, "[::1]:8000", None, True),
    ("our own page", OPEN, "localhost:8000", "http://localhost:8000", True),
    ("another page", OPEN, "localhost:8000", "https://evil.example", False),
    ("another port's page", OPEN, "localhost:8000", "http://localhost:3000", False),
    ("a page without an origin of its own", OPEN, "localhost:8000", "null", False),
    ("a name rebound to loopback", OPEN, "evil.example", "http://evil.example", False),
    ("no name at all", OPEN, "", None, False),
    ("with keys any name", KEYED, "api.example", None, True),
    ("with keys our own page", KEYED, "api.example", "https://api.example", True),
    ("with keys another page", KEYED, "api.example", "https://app.example", False),
    ("an allowed page", ALLOWING, "api.example", "https://app.example", True),
    ("an allowed page, written with a slash", ALLOWING, "api.example", "https://other.example", True),
    ("one that only begins so", ALLOWING, "api.example", "https://app.example.evil", False),
    ("the same name without TLS", ALLOWING, "api.example", "http://app.example", False),
    ("everybody", ALL, "api.example", "https://evil.example", True),
]


@pytest.mark.parametrize(("settings", "host", "page", "may"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_who_may_call(settings: Settings, host: str, page: str | None, may: bool) -> None:
    headers = {"host": host} | ({} if page is None else {"origin": page})
    if may:
        origin.check(headers, settings)
    else:
        with pytest.raises(TokenrelayError) as refusal:
            origin.check(headers, settings)
        assert refusal.value.code == "FORBIDDEN"
    told = dict(origin.answer_headers(headers, settings))
    assert (b"access-control-allow-origin" in told) == (may and page is not None)


BEHIND = Settings(api_keys="a:b", trusted_proxies="10.0.0.0/8, ::1")
SCHEMES = [
    # whose socket it is, what it says, the page, may it
    (("10.1.2.3", 1), "https", "https://api.example", True),
    (("10.1.2.3", 1), "https", "http://api.example", False),
    (("::1", 1), "http", "https://api.example", False),
    (("10.1.2.3", 1), "", "http://api.example", True),
    (("192.0.2.1", 1), "https", "http://api.example", True),  # nobody who is to be believed
    (None, "https", "http://api.example", True),
]


@pytest.mark.parametrize(("client", "said", "page", "may"), SCHEMES)
def test_the_scheme_is_compared_where_a_trusted_proxy_tells_it(
    client: tuple[str, int] | None, said: str, page: str, may: bool
) -> None:
    headers = {"host": "api.example", "origin": page, "x-forwarded-proto": said}
    scheme = origin.scheme_of(client, headers, BEHIND)
    assert bool(origin.answer_headers(headers, BEHIND, scheme)) == may
    if may:
        origin.check(headers, BEHIND, scheme)
    else:
        with pytest.raises(TokenrelayError):
            origin.check(headers, BEHIND, scheme)
