"""A Redis server of our own for one machine: started, waited for, gone with us; refuses to know what is kept in it.

    /tmp/tokenrelay-redis-x1y2z3/      0700
        owner                          held with flock(2) while we live
        redis.sock                     the only way in: no port is opened
        redis.log                      read only to say why it did not start

Nothing is kept: no snapshot, no append-only file. Killing us with SIGKILL kills it too (die_with_parent.py); the folder
that is then left is removed by whoever starts next, who finds its `owner` file no longer locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import stat
import tempfile
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tokenrelay.protocol.runtime.die_with_parent import tied
from tokenrelay.protocol.runtime.redis_server import RedisUnavailable, arguments, find_server, log_in, socket_in

PREFIX: Final = "tokenrelay-redis-"
START_TIMEOUT_S: Final = 10.0  # it takes 20 ms; a laptop waking up may need more
STOP_TIMEOUT_S: Final = 3.0
SOCKET_PATH_LIMIT: Final = 100  # bytes; sun_path holds 108 on Linux, 104 on macOS


class EmbeddedRedis:
    """`async with EmbeddedRedis() as redis: redis.url`. Start it in a thread that outlives it (die_with_parent.tied).

    Raises RedisUnavailable on entering.
    """

    def __init__(self, binary: Path | None = None, *, parent: Path | None = None) -> None:
        self._binary = binary  # None until looked for
        self._parent = parent or folder_for_temporaries()
        self._folder: Path | None = None  # None outside the context
        self._lock: int | None = None  # descriptor of the owner file, None outside the context
        self._process: Process | None = None  # None while stopped

    def __repr__(self) -> str:
        return f"<EmbeddedRedis {'pid ' + str(self.pid) if self.pid else 'stopped'} | {self._folder}>"

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the embedded Redis is used outside its context")
        return self._folder

    @property
    def socket(self) -> Path:
        return socket_in(self.folder)

    @property
    def url(self) -> str:
        """As redis-py's `from_url` and arq's `from_dsn` take it."""
        return f"unix://{self.socket}?db=0"

    @property
    def pid(self) -> int | None:
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def __aenter__(self) -> Self:
        self._binary = self._binary or find_server()
        sweep(self._parent)
        self._folder, self._lock = make_folder(self._parent)
        try:
            await self.start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def start(self) -> None:
        """Starts it, empty, and waits until it answers. Only for who stopped or killed it before."""
        assert self._binary is not None, "start() is for use inside the context"  # noqa: S101
        self.socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *tied([str(self._binary), *arguments(self.folder)]),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, it must outlive the processes that use it
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._answers()
        except TimeoutError:
            raise RedisUnavailable(self._story(f"did not answer within {START_TIMEOUT_S:.0f} s")) from None

    async def wait(self) -> int:
        """Until it ends, for whatever reason; its return code (negative: the signal). Bounded by the caller."""
        assert self._process is not None, "wait() is for use inside the context"  # noqa: S101
        return await self._process.wait()

    async def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and what it holds; the folder stays until the context is left."""
        process = self._process
        if process is None:
            return
        for attempt in (sig, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(attempt)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
                return

    def kill(self) -> None:
        """Ends it at once, without waiting."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _answers(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101
        while not await ping(self.socket):
            if process.returncode is not None:
                raise RedisUnavailable(self._story(f"ended at once with code {process.returncode}"))
            await asyncio.sleep(0.01)

    def _story(self, what: str) -> str:
        log = log_in(self.folder)
        tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        return "\n  ".join([f"{self._binary} {what}", *tail])

    async def _leave(self) -> None:
        try:
            await self.stop()
        finally:  # also when we are cancelled again while waiting for it
            self.kill()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._lock is not None:
                os.close(self._lock)
            self._folder = self._lock = None


async def ping(socket: Path) -> bool:
    """Whether a Redis behind this socket takes commands. Bounded: 1 s."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"  # "-LOADING …" is not yet
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def folder_for_temporaries() -> Path:
    """The system's, unless its name is so long that no socket could be bound in it."""
    place = Path(tempfile.gettempdir())
    longest = len(os.fsencode(socket_in(place / f"{PREFIX}12345678")))
    return place if longest <= SOCKET_PATH_LIMIT else Path("/tmp")  # noqa: S108 - the folder made in it is private


def make_folder(parent: Path) -> tuple[Path, int]:
    """A private folder and the descriptor that marks it as in use.

    It gets the name that a sweep looks for only once its owner file is locked, so no sweep can take it for left behind.
    """
    fresh = Path(tempfile.mkdtemp(prefix="new-" + PREFIX, dir=parent))  # mkdtemp: 0700
    lock = os.open(fresh / "owner", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, str(os.getpid()).encode())  # for a person who looks; the lock is what counts
    return fresh.rename(parent / fresh.name.removeprefix("new-")), lock


def sweep(parent: Path) -> list[Path]:
    """Removes folders whose owner is gone; answers which. A pid may be somebody else by now, a lock cannot."""
    return [folder for folder in parent.glob(PREFIX + "*") if is_left_behind(folder) and remove(folder)]


def is_left_behind(folder: Path) -> bool:
    try:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            return False
        lock = os.open(folder / "owner", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def remove(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
