"""The embedded Redis, for real: private, forgetful, and gone with whoever started it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from tokenrelay.protocol.runtime import redis_server
from tokenrelay.protocol.runtime.redis_server import RedisUnavailable
from tokenrelay.server.stack import embedded_redis
from tokenrelay.server.stack.embedded_redis import EmbeddedRedis, sweep

HOLD = """
import asyncio, sys
from pathlib import Path
from tokenrelay.server.stack.embedded_redis import EmbeddedRedis

async def main():
    async with EmbeddedRedis(parent=Path(sys.argv[1])) as redis:
        print(redis.pid, redis.folder, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def parent() -> Iterator[Path]:
    """Not tmp_path: a socket's path is bounded, and that one grows with a test's name."""
    folder = Path(tempfile.mkdtemp(prefix="tr-"))
    yield folder
    shutil.rmtree(folder)


def script(parent: Path, text: str) -> Path:
    binary = parent / "not-redis"
    binary.write_text(f"#!/bin/sh\n{text}\n")
    binary.chmod(0o700)
    return binary


def test_it_answers_where_its_url_says_and_holds_what_it_is_given(parent: Path) -> None:
    async def story() -> None:
        async with EmbeddedRedis(parent=parent) as redis, Redis.from_url(redis.url) as client:
            assert await client.set("a", "b")
            assert await client.get("a") == b"b"
            settings = await client.config_get("*")
            assert settings["port"] == "0"
            assert settings["save"] == ""
            assert settings["appendonly"] == "no"
            assert settings["maxmemory-policy"] == "noeviction"

    asyncio.run(story())


def test_its_folder_is_private_and_gone_at_the_end(parent: Path) -> None:
    redis = EmbeddedRedis(parent=parent)

    async def story() -> int | None:
        async with redis:
            assert stat.S_IMODE(redis.folder.stat().st_mode) == 0o700
            assert stat.S_ISSOCK(redis.socket.stat().st_mode)
            return redis.pid

    pid = asyncio.run(story())
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert redis.pid is None
    assert list(parent.iterdir()) == []
    with pytest.raises(RuntimeError):
        _ = redis.url


def test_it_is_gone_also_when_what_used_it_fails(parent: Path) -> None:
    async def story() -> None:
        async with EmbeddedRedis(parent=parent):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(story())
    assert list(parent.iterdir()) == []


def test_two_know_nothing_of_each_other(parent: Path) -> None:
    async def story() -> None:
        async with (
            EmbeddedRedis(parent=parent) as one,
            EmbeddedRedis(parent=parent) as two,
            Redis.from_url(one.url) as first,
            Redis.from_url(two.url) as second,
        ):
            await first.set("a", "b")
            assert await second.get("a") is None

    asyncio.run(story())


def test_one_that_was_killed_can_be_started_again_and_is_empty(parent: Path) -> None:
    async def story() -> None:
        async with EmbeddedRedis(parent=parent) as redis, Redis.from_url(redis.url) as client:
            await client.set("a", "b")
            redis.kill()
            assert await asyncio.wait_for(redis.wait(), 5) == -signal.SIGKILL
            await redis.start()
            await client.connection_pool.disconnect()
            assert await client.get("a") is None

    asyncio.run(story())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_it_dies_with_an_owner_that_is_killed_and_the_next_one_tidies_up(parent: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        redis = psutil.Process(int(pid))
        assert sweep(parent) == []  # it lives
        owner.kill()
    gone, _ = psutil.wait_procs([redis], timeout=10)
    assert gone == [redis]
    assert Path(folder).is_dir()  # nobody was left to remove it

    async def next_one() -> None:
        async with EmbeddedRedis(parent=parent) as another:
            assert list(parent.iterdir()) == [another.folder]

    asyncio.run(next_one())


def test_a_sweep_leaves_alone_what_is_not_certainly_ours(parent: Path) -> None:
    (parent / "tokenrelay-redis-no-owner").mkdir()
    (parent / "tokenrelay-redis-file").touch()
    target = parent / "target"
    target.mkdir()
    (target / "owner").touch()
    (parent / "tokenrelay-redis-link").symlink_to(target)
    assert sweep(parent) == []
    left = parent / "tokenrelay-redis-left"
    left.mkdir()
    (left / "owner").touch()
    assert sweep(parent) == [left]


def test_a_server_that_ends_at_once_is_told_with_its_last_words(parent: Path) -> None:
    binary = script(parent, 'while [ "$1" != --logfile ]; do shift; done; echo "out of luck" > "$2"; exit 3')

    async def story() -> None:
        async with EmbeddedRedis(binary, parent=parent):
            pass

    with pytest.raises(RedisUnavailable, match=r"code 3\n  out of luck"):
        asyncio.run(story())
    assert list(parent.iterdir()) == [binary]


def test_a_server_that_never_answers_is_given_up_and_ended(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "START_TIMEOUT_S", 0.5)
    monkeypatch.setattr(embedded_redis, "STOP_TIMEOUT_S", 0.5)
    binary = script(parent, f"echo $$ > {parent}/pid; trap '' TERM; while :; do sleep 0.1; done")

    async def story() -> None:
        async with EmbeddedRedis(binary, parent=parent):
            pass

    started = time.monotonic()
    with pytest.raises(RedisUnavailable, match="did not answer"):
        asyncio.run(story())
    assert time.monotonic() - started < 10
    assert not psutil.pid_exists(int((parent / "pid").read_text()))


def test_without_any_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "bundled_server", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RedisUnavailable, match=r"apt install redis-server.*TOKENRELAY_REDIS_URL"):
        redis_server.find_server()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_one_on_path_will_do(parent: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(redis_server, "bundled_server", lambda: None)
    monkeypatch.setenv("PATH", str(parent))
    binary = script(parent, "exit 0").rename(parent / name)
    assert redis_server.find_server() == binary


def test_a_bundled_server_that_lost_its_x_bit_gets_it_back(parent: Path) -> None:
    binary = script(parent, "exit 0")
    binary.chmod(0o600)
    assert redis_server.is_executable(binary)
    assert os.access(binary, os.X_OK)


def test_a_long_folder_for_temporaries_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp/" + "x" * 90)
    assert embedded_redis.folder_for_temporaries() == Path("/tmp")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_nothing_starts_for_a_parent_that_is_gone_already(parent: Path) -> None:
    from tokenrelay.protocol.runtime import die_with_parent

    somebody_else = "1"
    command = [sys.executable, die_with_parent.__file__, somebody_else, "9", "/bin/sh", "-c", f"touch {parent}/started"]
    subprocess.run(command, check=True, timeout=30)
    assert list(parent.iterdir()) == []
