"""nginx with the module nchan over Redis, to compare with: fan-out and replay.

`python -m loadtest.bench.nchan PORT URL` is the publisher beside it, which plays the scripted model.

nchan as its manual says for this use: one channel a stream in Redis (`nchan_redis_pass`), a buffer longer than the
answer, EventSource subscribers from the oldest message on, one nginx worker, so that it is one core like one edge.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tokenrelay.loadtest.bench import cache
from tokenrelay.loadtest.fleet import CannotStart, Fleet, free_port
from tokenrelay.protocol.models import scripted
from tokenrelay.protocol.runtime.launcher import role_command

PACKAGE: Final = "libnginx-mod-nchan"
MODULE: Final = Path("usr/lib/nginx/modules/ngx_nchan_module.so")
END: Final = "[end]"
NEEDS: Final = f"nchan is nginx with a module: sudo apt install nginx {PACKAGE} (Debian, Ubuntu)"


class NchanFleet(Fleet):
    """nginx is the edge, the publisher the worker."""

    end_mark = END

    @classmethod
    def prepare(cls) -> None:
        module()
        nginx()

    def _start_redis(self, *options: str) -> None:
        self._redis_port = free_port()
        super()._start_redis(*options, "--port", str(self._redis_port), "--bind", "127.0.0.1")

    def _start_roles(self) -> None:
        port = free_port()
        self._start("worker", role_command("loadtest.bench.nchan", str(port), self.url))
        config = self.folder / "nginx.conf"
        config.write_text(configuration(self.folder, self.port, port, self._redis_port), encoding="utf-8")
        self._start("edge", [nginx(), "-c", str(config), "-e", str(self.folder / "nginx.log")])


def nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise CannotStart(NEEDS)
    return found


def module() -> Path:
    """Where the module is: installed, or unpacked from Debian's package into the cache. Raises CannotStart."""
    folder = cache.folder("nchan")
    for place in (Path("/") / MODULE, folder / MODULE):
        if place.exists():
            return place
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotStart(NEEDS)
    try:
        run = {"cwd": folder, "check": True, "capture_output": True, "timeout": cache.PATIENCE_S}
        subprocess.run(["apt-get", "download", PACKAGE], **run)  # type: ignore[call-overload]  # noqa: S607
        package = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), "."], **run)  # type: ignore[call-overload]  # noqa: S607
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        raise CannotStart(f"{NEEDS}; it could not be fetched ({type(error).__name__})") from None
    if not (folder / MODULE).exists():
        raise CannotStart(NEEDS)
    return folder / MODULE


def configuration(folder: Path, port: int, publisher: int, redis_port: int) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
master_process off;
pid {folder}/nginx.pid;
load_module {module()};
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    tcp_nodelay on;
    nchan_shared_memory_size 256M;
{temporary}
    upstream store {{ nchan_redis_server redis://127.0.0.1:{redis_port}; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location ~ ^/api/streams/(\\w+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message oldest;
            nchan_redis_pass store;
        }}
        location ~ ^/publish/(\\w+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
            nchan_message_buffer_length 10000;
            nchan_message_timeout 1h;
            nchan_redis_pass store;
        }}
        location / {{
            proxy_pass http://127.0.0.1:{publisher};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"""


class Publisher:
    """`POST /api/chat` starts an answer; each of its tokens is one POST to nginx over one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def chat(self, request: Request) -> Response:
        model = (await request.json())["model"]
        stream_id = uuid.uuid4().hex
        headers = {"X-Stream-Id": stream_id}
        return StreamingResponse(self._answer(stream_id, model), media_type="text/event-stream", headers=headers)

    async def _answer(self, stream_id: str, model: str) -> AsyncIterator[str]:
        yield ": begun\n\n"
        spec = scripted.parse(model)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            await asyncio.sleep(spec.first_ms / 1000)
            for number in range(spec.tokens):
                at = datetime.now(UTC).isoformat()
                event = {"token": f"w{number} ", "done": False, "model": model, "timestamp": at}
                await self._publish(reader, writer, stream_id, json.dumps(event))
                if spec.interval_ms:
                    await asyncio.sleep(spec.interval_ms / 1000)
            await self._publish(reader, writer, stream_id, json.dumps({"token": "", "done": True, "end": END}))
        finally:
            writer.close()

    async def _publish(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream_id: str, event: str
    ) -> None:
        body = event.encode()
        head = f"POST /publish/{stream_id} HTTP/1.1\r\nHost: nchan\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if answer[9:12] not in (b"201", b"202"):
            raise RuntimeError(f"nchan answered {answer[:60]!r}")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))


async def ready(_: Request) -> Response:
    return JSONResponse({"workers": 1})


def main() -> None:
    port, url = sys.argv[1:]
    publisher = Publisher(url)
    routes = [Route("/api/chat", publisher.chat, methods=["POST"]), Route("/readyz", ready)]
    uvicorn.run(Starlette(routes=routes), port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
