"""A provider on loopback that speaks OpenAI's Responses API and writes what a test wants it to write."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "gpt-6.2-sol"


def _frame(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


class FakeProvider:
    """`with FakeProvider() as provider: provider.text = "…"`. `env` makes a fleet ask this one."""

    def __init__(self, text: str = "") -> None:
        self.reset(text)
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in provider.events():
                    self.wfile.write(_frame(event))
                    provider.stopped.wait(provider.pause_s)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        base = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.env = {"OPENAI_API_KEY": "sk-of-a-test", "TOKENRELAY_OPENAI_BASE_URL": f"{base}/v1"}

    def reset(self, text: str = "") -> None:
        self.text = text
        self.chunk = 7  # characters in one delta: it cuts through every mark of the markdown somewhere
        self.pause_s = 0.0

    def events(self) -> list[dict[str, Any]]:
        head = {"type": "response.created", "response": {"id": "r", "model": MODEL, "status": "in_progress"}}
        parts = [self.text[at : at + self.chunk] for at in range(0, len(self.text), self.chunk)]
        place = {"output_index": 0, "content_index": 0, "item_id": "m"}
        deltas = [{"type": "response.output_text.delta", "delta": part, **place} for part in parts]
        usage = {"input_tokens": 9, "output_tokens": len(parts), "total_tokens": 9 + len(parts)}
        end = {"id": "r", "model": MODEL, "status": "completed", "output": [], "usage": usage}
        return [head, *deltas, {"type": "response.completed", "response": end}]

    def __enter__(self) -> FakeProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
