"""A site of another origin than the edge's, which gives the JavaScript client to its pages."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fleet import ROOT

CLIENT = ROOT / "clients" / "javascript"

PAGE = """<!doctype html><meta charset="utf-8"><title>client</title><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"react": "/react.js", "react-dom/client": "/react.js"}}</script>
<div id="root"></div>"""


class Site:
    """Gives the page and its modules; `files` by path."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, str]] = {"/": ("text/html", PAGE)}
        for path in CLIENT.glob("*.js"):
            self.files[f"/client/{path.name}"] = ("text/javascript", path.read_text(encoding="utf-8"))
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, text = site.files.get(self.path.partition("?")[0], ("", ""))
                body = text.encode()
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", f"{kind or 'text/plain'}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
