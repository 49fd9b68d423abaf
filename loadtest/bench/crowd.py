"""A crowd of cheap clients in a process of its own: counts events without parsing them. Controlled by lines of JSON.

    bench ──stdin──▶ {"do": "open", …}      crowd ──sockets──▶ edge
    bench ◀─stdout── {"opened": 500}

An event costs it about a microsecond: a raw asyncio protocol and `bytes.count` over the input, nothing decoded. The
load test checks whether the text is right.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Self

from tokenrelay.loadtest import loop
from tokenrelay.loadtest.bench import io_viewer
from tokenrelay.loadtest.bench.io_viewer import IoViewer
from tokenrelay.loadtest.bench.viewer import ID, SocketListener, SseListener, Timed, Viewer, beats_of
from tokenrelay.loadtest.fleet import ROOT
from tokenrelay.loadtest.framing import TEXT, client_frame

AT_ONCE: Final = 100
PATIENCE_S: Final = 120.0


class Crowd:
    """In the crowd's process: the connections and the orders about them."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._common = f"Host: {host}:{port}\r\n"
        self.events = 0
        self.bytes = 0
        self._groups: dict[str, list[Viewer]] = {}

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        do = order.pop("do")
        match do:
            case "open":
                return await self._open(**order)
            case "mark":
                return {"events": self.events, "bytes": self.bytes, "at": time.perf_counter()}
            case "play":
                return await self._play(**order)
            case "beats":
                return beats_of(self._groups[order["group"]])
            case "wait":
                return await self._wait(order["group"])
            case "ages":
                return await self._ages(**order)
            case "close":
                for viewer in self._groups.pop(order["group"], []):
                    viewer.transport.abort()
                return {}
            case "replay":
                return await self._replay(**order)
            case "leave_early":
                return await self._leave_early(**order)
            case "recover":
                return await self._recover(**order)
            case "cut_off":
                return await self._cut_off(**order)
        raise ValueError(do)

    async def _open(
        self,
        group: str,
        count: int,
        model: str = "",
        stream_id: str = "",
        transport: str = "sse",
        reads: bool = True,
        listens: bool = False,
        end_mark: str = "",
    ) -> dict[str, Any]:
        """`count` more connections; answers once each has its answer's head. `listens`: to heartbeats, see `beats`.
        `end_mark`: what ends a stream where the server leaves the connection open."""
        request = self._request(transport, model, stream_id)
        viewers = self._groups.setdefault(group, [])

        def made() -> Viewer:
            if transport == "socketio":
                return IoViewer(self, request, stream_id)
            kind = (SseListener if transport == "sse" else SocketListener) if listens else Viewer
            return kind(self, request, reads)

        answered: Counter[int] = Counter()
        for begin in range(0, count, AT_ONCE):
            some = await asyncio.gather(*(self._connect(made) for _ in range(min(AT_ONCE, count - begin))))
            answered.update(await asyncio.gather(*(viewer.answered for viewer in some)))
            viewers += some
            for viewer in some:
                viewer.end_mark = end_mark.encode()
        if transport == "ws":
            resume = json.dumps({"type": "resume", "ref": 1, "stream_id": stream_id, "after": 0}).encode()
            for viewer in viewers[-count:]:
                viewer.transport.write(client_frame(TEXT, resume))
        refused = {status: number for status, number in answered.items() if status not in (101, 200)}
        return {"refused": refused, "stream_ids": [viewer.stream_id for viewer in viewers[-count:]]}

    def _request(self, transport: str, model: str, stream_id: str) -> bytes:
        if model:
            return self._start_of_chat(model) if transport == "chat" else self._start_of(model)
        if transport == "sse":
            return self._get(stream_id, 0)
        return self._upgrade("/api/ws" if transport == "ws" else io_viewer.PATH)

    async def _connect(self, made: Callable[[], Viewer]) -> Viewer:
        _, viewer = await asyncio.get_running_loop().create_connection(made, self._host, self._port)
        return viewer

    async def _reader(self, stream_id: str, after: int) -> Viewer:
        return await self._connect(lambda: Viewer(self, self._get(stream_id, after), reads=True))

    async def _wait(self, group: str) -> dict[str, Any]:
        viewers = self._groups[group]
        await asyncio.gather(*(viewer.ended for viewer in viewers))
        return {"durations_ms": [(viewer.ended_at - viewer.sent_at) * 1000 for viewer in viewers]}

    async def _ages(self, group: str, every: int) -> dict[str, Any]:
        """Until all have ended: how old events were when they came, seen by some (looking at each takes time)."""
        some = self._groups[group][::every]
        for viewer in some:
            viewer.ages_ms = []
        await self._wait(group)
        return {"ages_ms": [age for viewer in some for age in viewer.ages_ms or ()]}

    async def _play(self, model: str, count: int, at_once: int, every_s: float) -> dict[str, Any]:
        """`count` answers from their start to their end, `at_once` of them begun every `every_s`."""
        request = self._start_of(model)
        running = asyncio.get_running_loop()
        begun: list[asyncio.Task[Viewer]] = []
        next_at = running.time()
        for begin in range(0, count, at_once):
            some = (self._connect(lambda: Timed(self, request, reads=True)) for _ in range(min(at_once, count - begin)))
            begun += [asyncio.create_task(each) for each in some]
            next_at += every_s
            await asyncio.sleep(next_at - running.time())
        viewers = await asyncio.gather(*begun)
        await asyncio.gather(*(viewer.ended for viewer in viewers))
        timed = [viewer for viewer in viewers if isinstance(viewer, Timed) and viewer.first_token_at]
        ttft = [(viewer.first_token_at - viewer.sent_at) * 1000 for viewer in timed]
        return {"ttft_ms": ttft, "without_a_token": count - len(ttft)}

    async def _replay(self, stream_id: str, times: int, end_mark: str = "") -> dict[str, Any]:
        """The whole of an ended stream, again and again, one at a time."""
        took: list[float] = []
        for _ in range(times):
            viewer = await self._reader(stream_id, 0)
            viewer.end_mark = end_mark.encode()
            await viewer.ended
            assert await viewer.answered == 200
            took.append((viewer.ended_at - viewer.sent_at) * 1000)
        return {"took_ms": took}

    async def _recover(self, stream_id: str, times: int) -> dict[str, Any]:
        """socket.io's own way: the sessions of those who left at their first event come back one at a time."""
        left = [viewer for viewer in self._groups.pop("early") if isinstance(viewer, IoViewer)][:times]
        took: list[float] = []
        for known in left:
            again = IoViewer(self, self._upgrade(io_viewer.PATH), stream_id, known.session, known.offset)
            again.end_mark = b"[end]"
            await self._connect(lambda again=again: again)  # type: ignore[misc]
            await again.ended
            if again.has_joined:
                raise RuntimeError("socket.io did not recover the session")
            took.append((again.ended_at - again.sent_at) * 1000)
        return {"took_ms": took}

    async def _leave_early(self, stream_id: str, count: int) -> dict[str, Any]:
        """Viewers who go at their first event."""
        await self._open("early", count, stream_id=stream_id, transport="socketio")
        for viewer in self._groups["early"]:
            if isinstance(viewer, IoViewer):
                viewer.leaves_early = True
        await asyncio.gather(*(viewer.ended for viewer in self._groups["early"]))
        return {}

    async def _cut_off(self, group: str, stream_id: str) -> dict[str, Any]:
        """All at the same moment; whole is who has an event written after it and all before that."""
        viewers = self._groups.pop(group)
        cursors = [viewer.last_id for viewer in viewers]
        newest = max(cursors)
        cut_at = time.perf_counter()
        for viewer in viewers:
            viewer.transport.abort()
        whole_after: list[float] = []
        everybody = asyncio.get_running_loop().create_future()

        def watch(viewer: Viewer, data: bytes) -> None:
            if max(map(int, ID.findall(data)), default=0) > newest:
                viewer.watch = None
                whole_after.append(time.perf_counter() - cut_at)
                if len(whole_after) == len(viewers) and not everybody.done():
                    everybody.set_result(None)

        async def come_back(cursor: int) -> Viewer:
            viewer = await self._reader(stream_id, cursor)
            viewer.watch = watch
            return viewer

        self._groups[group] = list(await asyncio.gather(*map(come_back, cursors)))
        await everybody
        return {"whole_after_s": whole_after}

    def _start_of_chat(self, model: str) -> bytes:
        """The same in OpenAI's dialect."""
        asked = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        body = json.dumps(asked).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\n{self._common}Connection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def _start_of(self, model: str) -> bytes:
        body = json.dumps({"message": "x", "model": model, "stream": True, "on_disconnect": "cancel"}).encode()
        head = f"POST /api/chat HTTP/1.1\r\n{self._common}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _get(self, stream_id: str, after: int) -> bytes:
        head = f"GET /api/streams/{stream_id}?after={after} HTTP/1.1\r\n{self._common}Connection: close\r\n"
        return f"{head}Accept: text/event-stream\r\n\r\n".encode()

    def _upgrade(self, path: str) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET {path} HTTP/1.1\r\n{self._common}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()


class Remote:
    """In the bench's process: the other one, as methods. `with Remote(host, port) as crowd: crowd.open(…)`."""

    def __init__(self, host: str, port: int) -> None:
        command = [sys.executable, "-P", "-m", "tokenrelay.loadtest.bench.crowd", host, str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Raises RuntimeError when the crowd cannot do it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process has ended"}
        if "failed" in answer:
            raise RuntimeError(f"the crowd failed to {do}: {answer['failed']}")
        return answer

    def open(self, group: str, count: int, **order: Any) -> str:
        """Gives the id of the stream of the last one. Raises RuntimeError when one is refused."""
        return self.open_all(group, count, **order)[-1]

    def open_all(self, group: str, count: int, **order: Any) -> list[str]:
        """Gives the ids of all their streams, empty over a WebSocket. Raises RuntimeError when one is refused."""
        answer = self.ask("open", group=group, count=count, **order)
        if answer["refused"]:
            raise RuntimeError(f"of {count} connections some were refused (status: number): {answer['refused']}")
        return list(answer["stream_ids"])


async def serve(host: str, port: int) -> None:
    crowd = Crowd(host, port)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            answer = await asyncio.wait_for(crowd.obey(json.loads(line)), PATIENCE_S)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def main() -> None:
    host, port = sys.argv[1:]
    loop.run(serve(host, int(port)))


if __name__ == "__main__":
    main()
