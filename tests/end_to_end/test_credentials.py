"""Credentials over a real edge: tokens and keys that end while connections are open, each key's own limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from websockets.exceptions import ConnectionClosed

from tests.fleet import Fleet
from tests.raw import Raw, frame
from tests.wire import PATIENCE_S, Sse, Ws, call, start, text_of, words
from tokenrelay.server.access import api_keys
from tokenrelay.server.access.api_keys import KeyLimits
from tokenrelay.server.access.jwt import LEEWAY_S

SECRET = "an operator's secret of 32 letters"
EC = ec.generate_private_key(ec.SECP256R1())
SLOW = "scripted?tokens=400&interval_ms=50"
SHORT_S = 2
"""A token's life beside the leeway."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="module")
def fleet(file: Path) -> Iterator[Fleet]:
    api_keys.add(file, "somebody")
    jwks = file.with_name("jwks.json")
    jwks.write_text(json.dumps({"keys": [{**json.loads(ECAlgorithm.to_jwk(EC.public_key())), "kid": "e1"}]}))
    env = {
        "TOKENRELAY_JWKS_FILE": str(jwks),
        "TOKENRELAY_KEYS_FILE": str(file),
        "TOKENRELAY_JWT_SECRET": SECRET,
        "TOKENRELAY_JWT_AUDIENCE": "chat",
        "TOKENRELAY_KEY_CONCURRENCY": "50",
    }
    with Fleet(edges=2, workers=1, env=env) as started:
        yield started


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def token(subject: str, seconds: float = 86_400, **claims: Any) -> dict[str, str]:
    said = {"sub": subject, "aud": "chat", "exp": int(time.time() + seconds), **claims}
    return bearer(jwt.encode(said, SECRET, "HS256"))


def signed_with_the_set(subject: str) -> dict[str, str]:
    said = {"sub": subject, "aud": "chat", "exp": int(time.time() + 600)}
    return bearer(jwt.encode(said, EC, "ES256", headers={"kid": "e1"}))


def nearly_over(subject: str) -> dict[str, str]:
    """A token that is taken now, and not for much longer: the leeway is nearly used up."""
    return token(subject, SHORT_S - LEEWAY_S)


async def closed_with(socket: Ws) -> int | None:
    """Read on until the edge closes; its close code."""
    try:
        while True:
            await socket.hear()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def test_a_subject_owns_its_streams(fleet: Fleet) -> None:
    async def scene() -> None:
        first, second = fleet.urls
        stream_id = await start(first, "scripted?tokens=3", token("ann"))
        async with Sse.get(second, stream_id, 0, headers=signed_with_the_set("ann")) as stream:
            assert text_of(await stream.take()) == words(3)
        for stranger in (token("bob"), bearer(api_keys.add(Path(fleet.env["TOKENRELAY_KEYS_FILE"]), "ann"))):
            async with asyncio.timeout(PATIENCE_S):  # the new key is known after a moment
                while (await call("GET", f"{second}/api/streams", None, stranger))[0] == 401:
                    await asyncio.sleep(0.1)
            status, refusal, _ = await call("GET", f"{second}/api/streams/{stream_id}", None, stranger)
            assert (status, refusal["error_code"]) == (404, "NOT_FOUND")

    asyncio.run(scene())


@pytest.mark.parametrize(
    "headers",
    [
        token("ann", -60),
        token("ann", aud="another"),
        bearer(jwt.encode({"sub": "ann"}, "f" * 32, "HS256")),
        bearer("a.b.c"),
    ],
    ids=["expired", "audience", "forged", "no token"],
)
def test_what_is_no_good_is_refused_at_every_door(fleet: Fleet, headers: dict[str, str]) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        for method, path in (
            ("POST", "/api/chat"),
            ("GET", "/api/streams"),
            ("POST", "/api/tickets"),
            ("GET", "/api/ws"),
        ):
            if path == "/api/ws":
                with pytest.raises(Exception, match="401"):
                    await Ws(url, headers=headers).__aenter__()
                continue
            status, refusal, answered = await call(
                method, url + path, {"message": "a"} if method == "POST" else None, headers
            )
            assert (status, refusal["error_code"]) == (401, "UNAUTHORIZED")
            assert answered["WWW-Authenticate"]

    asyncio.run(scene())


def test_a_token_that_expires_ends_the_response_and_a_fresh_one_goes_on(fleet: Fleet) -> None:
    async def scene() -> None:
        first, second = fleet.urls
        async with Sse.post(first, {"message": "a", "model": SLOW}, nearly_over("ann")) as stream:
            events = await stream.take()  # to the end of the response
            stream_id, last = stream.stream_id, int(stream.decoder.last_event_id)
        assert not events[-1][1]["done"]
        assert 0 < len(text_of(events)) < len(words(400))
        async with Sse.get(second, stream_id, last, headers=token("ann")) as stream:
            rest = await stream.take(20)
        await call("DELETE", f"{second}/api/streams/{stream_id}", None, token("ann"))
        assert words(400).startswith(text_of(events) + text_of(rest))
        assert text_of(rest)

    asyncio.run(scene())


def test_a_token_that_expires_closes_the_socket_and_so_does_its_ticket(fleet: Fleet) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        mine = nearly_over("ann")
        _, answer, _ = await call("POST", f"{url}/api/tickets", None, mine)
        async with Ws(url, headers=mine) as by_header, Ws(url, query=f"?ticket={answer['ticket']}") as by_ticket:
            stream_id = await by_header.start({"message": "a", "model": SLOW})
            assert [await closed_with(by_header), await closed_with(by_ticket)] == [4401, 4401]
        await call("DELETE", f"{url}/api/streams/{stream_id}", None, token("ann"))

    asyncio.run(scene())


def test_a_key_that_is_revoked_ends_what_it_opened(fleet: Fleet, file: Path) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        mine = bearer(api_keys.add(file, "leaving"))
        async with asyncio.timeout(PATIENCE_S):
            while (await call("POST", f"{url}/api/tickets", None, mine))[0] == 401:
                await asyncio.sleep(0.1)
        _, answer, _ = await call("POST", f"{url}/api/tickets", None, mine)
        async with Ws(url, headers=mine) as by_header, Ws(url, query=f"?ticket={answer['ticket']}") as by_ticket:
            stream_id = await by_header.start({"message": "a", "model": SLOW})
            async with Sse.get(url, stream_id, 0, headers=mine) as response:
                await response.take(3)
                api_keys.revoke(file, "leaving")
                assert not (await response.take())[-1][1]["done"]
            assert [await closed_with(by_header), await closed_with(by_ticket)] == [4401, 4401]
        assert (await call("GET", f"{url}/api/streams/{stream_id}?ticket={answer['ticket']}"))[0] == 401

    asyncio.run(scene())


async def known(url: str, *credentials: dict[str, str]) -> None:
    """Wait until the edge has read them."""
    async with asyncio.timeout(PATIENCE_S):
        for headers in credentials:
            while (await call("GET", f"{url}/api/streams", None, headers))[0] == 401:
                await asyncio.sleep(0.1)


def test_a_name_that_is_given_again_opens_nothing_for_the_secret_before(fleet: Fleet, file: Path) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        first = bearer(api_keys.add(file, "rotated"))
        await known(url, first)
        _, answer, _ = await call("POST", f"{url}/api/tickets", None, first)
        async with Ws(url, headers=first) as by_header, Ws(url, query=f"?ticket={answer['ticket']}") as by_ticket:
            stream_id = await by_header.start({"message": "a", "model": SLOW})
            await asyncio.sleep(1)  # `created` is in seconds
            api_keys.revoke(file, "rotated")
            second = bearer(api_keys.add(file, "rotated"))
            assert [await closed_with(by_header), await closed_with(by_ticket)] == [4401, 4401]
        await known(url, second)
        read = f"{url}/api/streams/{stream_id}"
        assert (await call("GET", read, None, first))[0] == 401
        assert (await call("GET", f"{read}?ticket={answer['ticket']}"))[0] == 401
        assert (await call("DELETE", read, None, second))[0] == 200  # it is the same owner

    asyncio.run(scene())


def test_a_socket_that_cannot_be_closed_yet_starts_nothing_more(fleet: Fleet) -> None:
    """Its client reads nothing: the close frame waits behind what it did not take."""

    async def refusals() -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
        found = [line for line in lines if line.startswith("tokenrelay_errors_total") and '"UNAUTHORIZED"' in line]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def command(tokens: int) -> bytes:
        body = {"type": "start", "ref": 1, "message": "a", "model": f"scripted?tokens={tokens}&interval_ms=0"}
        return frame(1, json.dumps(body).encode())

    async def scene() -> None:
        async with Raw(url, accepts_little=True) as peer:
            await peer.upgrade("tokenrelay.v1.json", f"Authorization: {nearly_over('deaf')['Authorization']}")
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await peer.say(command(100_000))
            before, me = await refusals(), token("deaf")
            async with asyncio.timeout(PATIENCE_S):
                # One refusal may be that of a connection of an earlier test, which is still going; five are ours.
                while (refused := await refusals()) < before + 5:
                    await peer.say(command(1))
                    await asyncio.sleep(0.2)
            _, listed, _ = await call("GET", f"{url}/api/streams", None, me)
            await peer.say(command(1) * 5)
            async with asyncio.timeout(PATIENCE_S):
                while await refusals() < refused + 5:
                    await asyncio.sleep(0.1)
            _, again, _ = await call("GET", f"{url}/api/streams", None, me)
            assert len(listed["streams"]) == len(again["streams"]) > 0

    url = fleet.urls[0]
    asyncio.run(scene())


def test_a_key_has_connections_and_a_largest_output_of_its_own(fleet: Fleet, file: Path) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        single = bearer(api_keys.add(file, "single", KeyLimits(connections=1)))
        brief = bearer(api_keys.add(file, "brief", KeyLimits(max_output_tokens=3)))
        await known(url, single, brief)
        ask = {"message": "a", "model": "scripted?tokens=10"}
        async with Ws(url, headers=single):
            status, refusal, headers = await call("POST", f"{url}/api/chat", ask, single)
            assert (status, refusal["error_code"], headers["X-RateLimit-Limit"]) == (429, "RATE_LIMIT", "1")
        status, refusal, _ = await call("POST", f"{url}/api/chat", {**ask, "max_tokens": 4}, brief)
        assert (status, refusal["field"]) == (422, "max_tokens")
        for headers, length in ((brief, 3), (single, 10)):
            async with asyncio.timeout(PATIENCE_S):  # the socket has to be gone
                while (answered := await call("POST", f"{url}/api/chat", ask, headers))[0] == 429:
                    await asyncio.sleep(0.05)
            assert answered[1]["response"] == words(length)

    asyncio.run(scene())


def test_a_key_has_limits_of_its_own(fleet: Fleet, file: Path) -> None:
    async def scene() -> None:
        url = fleet.urls[0]
        narrow = bearer(api_keys.add(file, "narrow", KeyLimits(concurrency=1)))
        seldom = bearer(api_keys.add(file, "seldom", KeyLimits(rate=2)))
        async with asyncio.timeout(PATIENCE_S):
            for headers in (narrow, seldom):
                while (await call("GET", f"{url}/api/streams", None, headers))[0] == 401:
                    await asyncio.sleep(0.1)
        stream_id = await start(url, SLOW, narrow)
        status, refusal, headers = await call("POST", f"{url}/api/chat", {"message": "a", "model": "scripted"}, narrow)
        assert (status, refusal["error_code"], headers["X-RateLimit-Limit"]) == (429, "RATE_LIMIT", "1")
        await call("DELETE", f"{url}/api/streams/{stream_id}", None, narrow)
        for expected in (200, 200, 429):
            status, _, headers = await call(
                "POST", f"{url}/api/chat", {"message": "a", "model": "scripted?tokens=1"}, seldom
            )
            assert status == expected
        assert headers["X-RateLimit-Limit"] == "2"

    asyncio.run(scene())
