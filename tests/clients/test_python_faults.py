"""The Python client where servers, networks and callers misbehave: stops that outlive their reader, sockets that open
and say nothing, answers of strangers, mistakes that no second try can mend."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from tokenrelay_client import Client, Refused, SyncClient, TokenrelayError, Unreachable, retry, websocket
from tokenrelay_client.environment import DEFAULT_URL, header_of, key_or_default, proxy_for, url_or_default

from tests.clients.service import ID, PATIENCE_S, STARTED, Fate, Service, answer_of, event, says, streams, talks, told

Heard = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_RETRY_S", 0.02)
    for name in ("TOKENRELAY_URL", "TOKENRELAY_KEY", "TOKENRELAY_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene

    asyncio.run(bounded())


def holds(gate: asyncio.Event, then: Fate) -> Fate:
    """Answers once the gate is open."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await then(request)

    return answer


CANCELLED = says(200, {"stream_id": ID, "state": "cancelling"})
CANCEL = f"/api/streams/{ID}/cancel"


def paths(service: Service) -> list[str]:
    return [path for _, path, _ in service.asked]


# -- a stop outlives its reader ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["stop, then left", "left, then stop", "left with its block"])
def test_a_stop_before_the_start_is_answered_outlives_its_reader(order: str) -> None:
    gate = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        fate = CANCELLED if request.path == CANCEL else holds(gate, streams(event(1, status="started")))
        return await fate(request)

    async def scene() -> None:
        async with Service([serve]) as service:
            async with Client(service.url, transport="sse") as client:
                stream = client.chat("hello")
                while not service.asked:
                    await asyncio.sleep(0.01)
                if order == "left, then stop":
                    stream.detach()
                stopping = asyncio.create_task(stream.cancel())
                await asyncio.sleep(0)
                if order == "stop, then left":
                    stream.detach()
                gate.set()
                if order != "left with its block":
                    await stopping
                    assert stream.state == "detached"
            await stopping
            assert paths(service)[-1] == CANCEL
            assert set(paths(service)) == {"/api/chat", CANCEL}
            keys = {headers["Idempotency-Key"] for _, path, headers in service.asked if path == "/api/chat"}
            assert len(keys) == 1  # one generation

    play(scene())


def test_a_stop_whose_caller_gave_up_waiting_goes_on() -> None:
    gate = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        fate = holds(gate, CANCELLED) if request.path == CANCEL else streams(event(1, status="started"))
        return await fate(request)

    async def scene() -> None:
        async with Service([serve]) as service:
            async with Client(service.url, transport="sse") as client:
                stream = client.resume(ID)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await stream.cancel()
                gate.set()
                await stream.cancel()
                stream.detach()
            assert paths(service).count(CANCEL) == 1

    play(scene())


def test_a_stop_takes_any_way_there_is() -> None:
    """The way in use is forbidden by a proxy: the other one is taken, though the stream was not to use it."""
    heard: Heard = []

    async def serve(request: web.Request) -> web.StreamResponse:
        fate = {
            "/api/ws": talks(heard=heard),
            CANCEL: says(403, "<html>no POST here"),
        }.get(request.path, streams(event(1, status="started")))
        return await fate(request)

    async def scene() -> None:
        async with Service([serve]) as service, Client(service.url, transport="sse") as client:
            stream = client.resume(ID)
            await stream.cancel()
            assert [message["type"] for message in heard] == ["cancel", "ping"]
            stream.detach()

    play(scene())


def test_a_stop_that_every_way_refuses_is_an_error() -> None:
    unknown = {"error": "there is no such stream", "error_code": "NOT_FOUND"}

    async def serve(request: web.Request) -> web.StreamResponse:
        fate = streams(event(1, status="started")) if request.method == "GET" and request.path != "/api/ws" else None
        return await (fate or says(404, unknown))(request)

    async def scene() -> None:
        async with Service([serve]) as service, Client(service.url, transport="sse") as client:
            stream = client.resume(ID)
            with pytest.raises(Refused, match="no such stream"):
                await stream.cancel()
            stream.detach()

    play(scene())


def test_leaving_the_block_waits_for_a_stop_no_longer_than_it_was_told() -> None:
    async def scene() -> None:
        async with Service([streams(event(1, status="started")), says(502, "<html>")]) as service:
            before = time.monotonic()
            async with Client(service.url, transport="sse", stop_timeout_s=0.2) as client:
                stream = client.resume(ID)
                stopping = asyncio.create_task(stream.cancel())
                await asyncio.sleep(0.05)
            assert time.monotonic() - before < 5
            with pytest.raises(asyncio.CancelledError):
                await stopping

    play(scene())


# -- open is not usable ------------------------------------------------------------------------------------------------


def test_a_socket_that_opens_and_says_nothing_costs_one_question_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "FIRST_WORD_TIMEOUT_S", 0.2)

    async def serve(request: web.Request) -> web.StreamResponse:
        return await (talks() if request.path == "/api/ws" else streams(answer_of("a")))(request)

    async def scene() -> None:
        async with Service([serve]) as service, Client(service.url) as client:
            for _ in range(3):
                stream = client.chat("hello")
                await stream.completion()
                assert (stream.text, stream.transport) == ("a", "sse")
            assert paths(service) == ["/api/ws", "/api/chat", "/api/chat", "/api/chat"]

    play(scene())


def test_a_question_that_a_known_socket_does_not_answer_is_asked_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "ANSWER_TIMEOUT_S", 0.2)
    end = told(2, done=True, finish_reason="stop")

    async def serve(request: web.Request) -> web.StreamResponse:
        return await (talks([STARTED, told(1), end]) if request.path == "/api/ws" else streams(answer_of("b")))(request)

    async def scene() -> None:
        async with Service([serve]) as service, Client(service.url) as client:
            await client.chat("first").completion()
            stream = client.chat("second")
            await stream.completion()
            assert (stream.text, paths(service)) == ("b", ["/api/ws", "/api/chat"])

    play(scene())


# -- whose word it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 422, 429, 500, 502, 503])
@pytest.mark.parametrize("body", ["<html>no</html>", {"message": "no"}])
def test_a_strangers_answer_is_a_drop(status: int, body: Any) -> None:
    async def scene() -> None:
        fates = [streams(event(1, status="started") + event(2, token="a")), says(status, body), says(status, body),
                 streams(event(3, done=True, finish_reason="stop"))]  # fmt: skip
        async with Service(fates) as service, Client(service.url, transport="sse") as client:
            stream = client.resume(ID)
            await stream.completion()
            assert (stream.text, stream.state) == ("a", "done")

    play(scene())


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 3000, 4000])
def test_a_strangers_close_is_a_drop(code: int) -> None:
    end = told(3, done=True, finish_reason="stop")

    async def scene() -> None:
        fates = [talks([STARTED, told(1), told(2, token="a")], close=code), talks([STARTED, end])]
        async with Service(fates) as service, Client(service.url, transport="websocket") as client:
            stream = client.chat("hello")
            await stream.completion()
            assert (stream.text, stream.state) == ("a", "done")

    play(scene())


# -- what can never succeed is said at once, with its cause ------------------------------------------------------------


def failing(error: Exception) -> Callable[[], str]:
    def key() -> str:
        raise error

    return key


@pytest.mark.parametrize("transport", ["auto", "sse", "websocket"])
@pytest.mark.parametrize(
    ("key", "says_why"),
    [
        ("sk–dash", "U\\+2013"),
        ("sk\nline", "U\\+000A"),
        (lambda: "sk–dash", "U\\+2013"),
        (failing(FileNotFoundError("no key file")), "no key file"),
        (failing(TimeoutError("the vault is shut")), "the vault is shut"),
        (lambda: 7, "a int, not a string"),
    ],
)
def test_a_key_that_cannot_be_sent_is_said_at_once(key: Any, says_why: str, transport: Any) -> None:
    async def scene() -> None:
        async with Service([says(200, {})]) as service, Client(service.url, key, transport=transport) as client:
            with pytest.raises(TokenrelayError, match=says_why):
                await client.chat("hello").completion()
            with pytest.raises(TokenrelayError, match=says_why):
                await client.models()
            assert service.asked == []

    play(scene())


def test_a_certificate_that_is_not_trusted_is_said_at_once(tmp_path: Any) -> None:
    trust = pytest.importorskip("cryptography")
    assert trust
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = self_signed(tmp_path)
    server.load_cert_chain(certificate)

    async def scene() -> None:
        listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server)
        port = listening.sockets[0].getsockname()[1]
        async with listening, Client(f"https://127.0.0.1:{port}") as client:
            with pytest.raises(Unreachable, match="certificate is not trusted") as caught:
                await client.chat("hello").completion()
            assert not caught.value.retryable

    play(scene())


def self_signed(folder: Any) -> str:
    """Path of a certificate with its key."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return str(path)


@pytest.mark.parametrize("transport", ["auto", "sse", "websocket"])
def test_the_last_cause_stands_in_the_error(transport: Any) -> None:
    """A first contact that comes to nothing: the cause, the address, and the setting to look at."""

    async def scene() -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))  # bound, and nobody listens
            url = f"http://127.0.0.1:{held.getsockname()[1]}"
            async with Client(url, transport=transport, first_patience_s=0.2) as client:
                with pytest.raises(Unreachable) as caught:
                    await client.chat("hello").completion()
        said = str(caught.value)
        assert "Connect call failed" in said
        assert url in said
        assert "TOKENRELAY_URL" in said

    play(scene())


def test_a_stranger_at_the_address_is_named() -> None:
    async def scene() -> None:
        async with (
            Service([says(404, "<html>nothing here")]) as service,
            Client(service.url, transport="sse", first_patience_s=0.2) as client,
        ):
            with pytest.raises(Unreachable, match="answered 404, and not as Tokenrelay does"):
                await client.chat("hello").completion()

    play(scene())


def test_a_new_question_gives_an_unknown_server_up_within_seconds() -> None:
    async def scene() -> None:
        async with Client("http://127.0.0.1:9") as client:
            assert client.chat("hello")._retry._first_patience_s == 8
            # One that was asked before knows that there was a server.
            assert client.chat("hello", idempotency_key="k")._retry._first_patience_s == 300
            assert client.resume(ID)._retry._first_patience_s == 300

    play(scene())


def test_attempts_and_the_next_try_are_told_and_need_not_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_RETRY_S", 60.0)

    async def scene() -> None:
        fates = [streams(event(1, status="started")), says(502, "<html>"), streams(answer_of("a"))]
        async with Service(fates) as service, Client(service.url, transport="sse") as client:
            stream = client.resume(ID)
            while len(service.asked) < 2 or stream.retry_at is None:
                await asyncio.sleep(0.01)
            assert stream.attempts >= 1
            assert stream.retry_at > time.monotonic()
            stream.retry_now()
            await stream.completion()
            assert stream.attempts == 0
            assert not stream.retry_at

    monkeypatch.setattr("tests.clients.service.RETRY_MS", 100)
    play(scene())


# -- the environment ---------------------------------------------------------------------------------------------------


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (url_or_default(None), key_or_default(None)) == (DEFAULT_URL, None)
    monkeypatch.setenv("TOKENRELAY_URL", "http://relay.test/")
    monkeypatch.setenv("TOKENRELAY_KEY", "old")
    assert (url_or_default(None), header_of(key_or_default(None))) == (
        "http://relay.test", {"Authorization": "Bearer old"},
    )  # fmt: skip
    monkeypatch.setenv("TOKENRELAY_API_KEY", "new")
    assert header_of(key_or_default(None)) == {"Authorization": "Bearer new"}
    assert header_of(key_or_default("given")) == {"Authorization": "Bearer given"}
    assert header_of(key_or_default("")) == {}
    monkeypatch.setenv("TOKENRELAY_URL", "localhost")
    with pytest.raises(Refused, match="TOKENRELAY_URL"):
        Client()


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "http://a.test", None),
        ({"HTTP_PROXY": "http://p.test:1"}, "http://a.test", "http://p.test:1"),
        ({"http_proxy": "p.test:1"}, "http://a.test", "http://p.test:1"),
        ({"HTTP_PROXY": "http://p.test:1"}, "https://a.test", None),
        ({"HTTPS_PROXY": "http://p.test:1"}, "https://a.test", "http://p.test:1"),
        ({"ALL_PROXY": "http://p.test:1"}, "https://a.test", "http://p.test:1"),
        ({"HTTP_PROXY": "http://p.test:1", "NO_PROXY": "a.test"}, "http://a.test:8000", None),
        ({"HTTP_PROXY": "http://p.test:1", "NO_PROXY": "*"}, "http://a.test", None),
        ({"HTTP_PROXY": "http://p.test:1", "NO_PROXY": "b.test"}, "http://a.test", "http://p.test:1"),
    ],
)
def test_a_proxy_is_taken_as_curl_takes_it(
    environment: dict[str, str], url: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url, True) == expected
    assert proxy_for(url, None) is None


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=r"got socks5://…: see http_proxy"):
        proxy_for("http://a.test", "socks5://user:secret@p.test:1")


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_both_transports_go_through_the_proxy(transport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    lines: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def scene() -> None:
        listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        async with listening, Client("http://relay.test", transport=transport, first_patience_s=0.1) as client:
            with pytest.raises(Unreachable):
                await client.chat("hello").completion()
        expected = b"POST http://relay.test/api/chat" if transport == "sse" else b"CONNECT relay.test:80"
        assert lines[0].startswith(expected)

    play(scene())


# -- without await -----------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Its exit status in a forked process: 0 where it returns; killed after some seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE_S))
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_client_made_before_a_fork_says_so_in_the_child() -> None:
    with SyncClient("http://127.0.0.1:9", first_patience_s=60) as client:
        stream = client.chat("hello")

        def child() -> None:
            for ask in (lambda: next(iter(stream)), stream.completion, stream.cancel, lambda: client.chat("again")):
                with pytest.raises(RuntimeError, match="before the fork"):
                    ask()
            client.__exit__(None, None, None)  # and leaving the block waits for nothing

        assert in_child(child) == 0
        assert multiprocessing.active_children() == []
        stream.detach()


def test_a_loop_over_a_stream_of_a_closed_client_ends() -> None:
    client = SyncClient("http://127.0.0.1:9", first_patience_s=60)
    with client:
        stream = client.chat("hello")
    assert stream.state == "detached"
    assert stream.completion() is None


def test_events_have_types_beside_the_objects_of_the_wire() -> None:
    from tokenrelay_client import Completion, Event, Token

    async def scene() -> None:
        async with Service([streams(answer_of("a"))]) as service, Client(service.url, transport="sse") as client:
            events = [each async for each in client.chat("hello")]
        (number, data), kinds = events[1], [type(each.typed).__name__ for each in events]
        assert (number, data["token"], kinds) == (2, "a", ["Started", "Token", "Completion"])
        token, end = events[1].typed, events[2].typed
        assert isinstance(token, Token)
        assert isinstance(end, Completion)
        assert (token.id, token.token, token.data) == (2, "a", data)
        assert (end.output_tokens, end.finish_reason, end.done) == (1, "stop", True)
        with pytest.raises(AttributeError):
            token.token = "b"  # type: ignore[misc]
        assert Event(9, {"token": "", "done": False, "news": 1}).typed.data["news"] == 1

    play(scene())


def test_every_event_of_the_vectors_has_a_type() -> None:
    from tokenrelay_client import Unknown
    from tokenrelay_client.events import typed

    from tests.clients.test_vectors import read

    for case in read("events")["cases"]:
        event_of = typed(case["id"], case["data"])
        assert ("later version" in case["name"] and not event_of.token) == isinstance(event_of, Unknown), case["name"]
        assert event_of.data is case["data"]
        for name, value in case["data"].items():
            if name in event_of.__dataclass_fields__ and name != "data":
                assert getattr(event_of, name) == value, json.dumps(case)
