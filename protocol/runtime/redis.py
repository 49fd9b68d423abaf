"""How a process opens Redis: a bounded pool that survives broken connections. Knows no command's meaning."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import hiredis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from tokenrelay.protocol.runtime.address import EXPECTED, SentinelAddress, Tls, parse_cluster, parse_sentinel
from tokenrelay.protocol.store.scripts import Argument, Script

COMMAND_TIMEOUT_S: Final = 5.0
_SENTINEL_TIMEOUT_S: Final = 1.0
NO_TLS: Final = Tls()


class _CountsTrips:
    """A command, or a pipeline of them, takes a connection once: so that is how often Redis was asked."""

    round_trips = 0

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.round_trips += 1
        return await super().get_connection(*args, **kwargs)  # type: ignore[misc]


class Pool(_CountsTrips, BlockingConnectionPool):
    """redis-py's, counting."""


class SentinelPool(_CountsTrips, SentinelConnectionPool):
    """The same behind Sentinel."""


def open_pool(
    url: str, most: int, tls: Tls = NO_TLS, timeout_s: float = COMMAND_TIMEOUT_S, retries: int = 1
) -> ConnectionPool:
    """At most so many connections; a caller beyond them waits for at most `timeout_s`, and as long for a reply.

    A `redis+sentinel://` address (see `address`) follows the primary. Over TLS the certificate has to be for the name
    that was asked for. Raises ValueError for a bad address, which shows nothing of it.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 15,
        # One more try: the first command after a restart of Redis finds a dead connection in the pool.
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), retries),
        "retry_on_error": [RedisConnectionError],
    }
    sentinel = parse_sentinel(url)
    pool: ConnectionPool
    if sentinel is not None:
        pool = _sentinel_pool(sentinel, options, most, tls)
    else:
        if url.startswith("unix:"):
            del options["socket_keepalive"]
        if url.startswith("rediss:"):
            options |= _tls_options(tls)
        pool = Pool.from_url(url, max_connections=most, timeout=timeout_s, **options)
    pool.connection_class = _steady(pool.connection_class)
    return pool


def _tls_options(tls: Tls) -> dict[str, Any]:
    """redis-py checks the chain only, unless it is told to."""
    given = {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert, "ssl_keyfile": tls.key}
    return {"ssl_check_hostname": True, **{name: path for name, path in given.items() if path is not None}}


def _sentinel_pool(address: SentinelAddress, options: dict[str, Any], most: int, tls: Tls) -> SentinelConnectionPool:
    secured = {"ssl": True, **_tls_options(tls)} if address.is_tls else {}
    own = {
        "socket_timeout": _SENTINEL_TIMEOUT_S,
        "username": address.sentinel_username,
        "password": address.sentinel_password,
        **secured,
    }
    sentinel = Sentinel(list(address.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    options |= {"db": address.db, "username": address.username, "password": address.password, **secured}
    return SentinelPool(address.service, sentinel, max_connections=most, **options)  # type: ignore[no-untyped-call]


def check_address(url: str, tls: Tls) -> None:
    """Before anything is opened: can the address be used? Raises ValueError, which names the setting and shows nothing
    of its value."""
    try:
        if parse_cluster(url) is None:
            pool = open_pool(url, 1, tls)
            pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:
        said = str(error)
        raise ValueError(f"TOKENRELAY_REDIS_URL: {said if said.startswith('expected ') else EXPECTED}") from None
    if tls == NO_TLS:
        return
    if not url.startswith("rediss"):
        raise ValueError("TOKENRELAY_REDIS_CA, _CERT and _KEY are for TLS: TOKENRELAY_REDIS_URL begins with rediss")
    if (tls.cert is None) != (tls.key is None):
        raise ValueError("TOKENRELAY_REDIS_CERT and TOKENRELAY_REDIS_KEY go together")
    try:
        ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"TOKENRELAY_REDIS_CA: {error.strerror or 'no certificates'}") from None
    if tls.cert is not None:
        try:
            ssl.create_default_context().load_cert_chain(tls.cert, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"TOKENRELAY_REDIS_CERT, TOKENRELAY_REDIS_KEY: {error.strerror or 'no pair'}") from None


def _steady(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """A kind of connection whose every loss is one that redis-py knows, and tries again after.

    uvloop says RuntimeError ("the handler is closed") of a write to a socket that was reset while nobody read from it;
    asyncio's own loop does not, and redis-py hands it on.
    """

    class Steady(kind):  # type: ignore[misc,valid-type]
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as error:
                raise RedisConnectionError("the connection was closed") from error

    return Steady


def own_connection(redis: Redis, **changes: Any) -> AbstractConnection:
    """A connection beside the pool's, with its address and credentials; `changes` to redis-py's options."""
    kwargs = {**redis.connection_pool.connection_kwargs, "health_check_interval": 0, **changes}
    return redis.connection_pool.connection_class(**kwargs)


def wire_of(connection: AbstractConnection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of an open connection, for the one place in a process where redis-py's own reading costs too much.

    Private to redis-py, which is pinned below 6 (arq needs that). Raises ConnectionError when it is not open.
    """
    reader, writer = connection._reader, connection._writer  # noqa: SLF001
    if reader is None or writer is None:
        raise ConnectionError("the connection is not open")
    return reader, writer


_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (AuthenticationError, "NOAUTH"), (BusyLoadingError, "LOADING"), (ExecAbortError, "EXECABORT"),
    (NoPermissionError, "NOPERM"), (NoScriptError, "NOSCRIPT"), (OutOfMemoryError, "OOM"), (ReadOnlyError, "READONLY"),
)  # fmt: skip
"""redis-py turns these codes into classes and takes them off the text."""

_CODE: Final = re.compile(r"(?:^|[-\s])([A-Z]{3,} )")
MAX_WORDS: Final = 160


def describe(error: BaseException) -> str:
    """What went wrong, for a log: Redis's own words with their code, without anything it repeats of a command."""
    text = words_of(error).replace("\n", " ").strip(" ,")
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "")
    if not isinstance(error, (RedisError, hiredis.ReplyError)):
        # The text of any other exception may hold what was being worked on.
        return type(error).__name__ + (f": {error.strerror}" if isinstance(error, OSError) and error.strerror else "")
    if code and not text.startswith(code):
        text = f"{code} {text}"
    return f"{type(error).__name__}: {text}"[:MAX_WORDS].rstrip()


def code_of(error: BaseException) -> str:
    """The code of an error reply: OOM, READONLY, NOPERM…; ERR for one without."""
    known = next((code for kind, code in _CODES if isinstance(error, kind)), "")
    found = _CODE.search(words_of(error))
    return known or (found[1].strip() if found else "ERR")


def is_about_the_data(error: BaseException) -> bool:
    """Whether an error reply says that a key holds what it should not, or that a script stumbled over it. That stays so
    however long one waits; any other error reply is a state of Redis that may pass."""
    if not isinstance(error, (ResponseError, hiredis.ReplyError)) or isinstance(error, _PASSING):
        return False
    text = words_of(error)
    codes = {code.strip() for code in _CODE.findall(text)} - {"ERR", "ACL", "NOT"}
    if "WRONGTYPE" in codes:
        return True
    return "user_script" in text and not codes and "The user executing the script" not in text


def words_of(error: BaseException) -> str:
    """Without the command: redis-py puts it before the words for a pipeline, Redis after them where it knows none."""
    return str(error).rpartition("of pipeline caused error: ")[2].partition("with args beginning with")[0]


_PASSING: Final = (NoPermissionError, OutOfMemoryError, ReadOnlyError, ExecAbortError)


def place_of(connection: AbstractConnection) -> str:
    """Host and database for a log line, never a name or password."""
    where = getattr(connection, "path", None) or f"{getattr(connection, 'host', '')}:{getattr(connection, 'port', '')}"
    return f"{where}/{connection.db or 0}"


def pool_place(redis: Redis) -> str:
    """The same of the commands' connections."""
    options: Mapping[str, Any] = redis.connection_pool.connection_kwargs
    if "path" in options:
        where = str(options["path"])
    elif "host" in options:
        where = f"{options['host']}:{options.get('port', 6379)}"
    else:
        where = f"sentinel service {getattr(redis.connection_pool, 'service_name', '')}"
    return f"{where}/{options.get('db') or 0}"


class Wanted(NamedTuple):
    """A script's text, and what follows EVALSHA."""

    text: str
    arguments: Sequence[Argument]


async def run(redis: Redis, script: Script, arguments: Sequence[Argument]) -> Any:
    """Run a script by its SHA; a Redis that does not know it (restart, SCRIPT FLUSH) is given the text.

    Raises RedisError and OSError.
    """
    return await run_text(redis, Wanted(script.text, arguments))


async def run_text(redis: Redis, wanted: Wanted) -> Any:
    """The same for one of a script's two texts."""
    try:
        return await redis.execute_command("EVALSHA", *wanted.arguments)  # type: ignore[no-untyped-call]
    except NoScriptError:
        return await redis.execute_command("EVAL", wanted.text, *wanted.arguments[1:])  # type: ignore[no-untyped-call]


def round_trips(redis: Redis) -> int:
    """How often the commands' connections were used since the start."""
    pool = redis.connection_pool
    return pool.round_trips if isinstance(pool, _CountsTrips) else 0
