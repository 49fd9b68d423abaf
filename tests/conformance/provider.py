"""A provider on loopback for conformance: it thinks, says how many pictures it was sent, and counts every kind of
token. The rest is the scripted model's."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

THOUGHT: Final = ("Let ", "me ", "see.")
USAGE: Final = {
    "prompt_tokens": 1_000, "completion_tokens": 200, "total_tokens": 1_200,
    "prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 150},
}  # fmt: skip
CATALOGUE: Final = """
[servers.acme]
base_url = "BASE/v1"

[[model]]
id = "scripted"
provider = "Scripted"
upstream = "scripted"
dialect = "scripted"

[[model]]
id = "acme"
provider = "acme"
server = "acme"
upstream = "acme"
accepts = ["tools", "images"]
thinks = true
efforts = ["low", "medium", "high"]
price = {input = 2.0, output = 5.0, cached_input = 1.0}
"""
COST_USD: Final = (600 * 2.0 + 400 * 1.0 + 200 * 5.0) / 1_000_000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        asked = json.loads(body)
        pictures = sum(
            part["type"] == "image_url"
            for turn in asked["messages"]
            if isinstance(turn["content"], list)
            for part in turn["content"]
        )
        deltas: list[dict[str, Any]] = [{"reasoning_content": thought} for thought in THOUGHT]
        deltas += [{"content": "pictures: "}, {"content": str(pictures)}]
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
        text = "".join(f"data: {json.dumps({'model': 'acme', **chunk})}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Provider:
    """`with Provider() as provider: provider.base`."""

    def __enter__(self) -> Provider:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
