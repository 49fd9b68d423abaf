"""The chat page, the page of the interface and the modules they are made of: files, each with its type and its tag.

There is no build step: `/static/client/` is the JavaScript client itself, as npm has it. In a checkout and in an
installed wheel it is found at the same place, `tokenrelay/javascript`.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Final

import msgspec

from tokenrelay import FOLDER
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.server.http import Call

WEB: Final = Path(__file__).parent
CLIENT: Final = FOLDER / "javascript"

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",  # RFC 9239
}

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",  # WebSockets of the same host and port too (Content Security Policy 3, section 6.7.2.8)
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing from anywhere else and nothing sent anywhere else, whatever a model writes; no script but our files."""


class File(msgspec.Struct, frozen=True):
    """What is sent of it."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> File:
        body = path.read_bytes()
        return cls(body, TYPES[path.suffix], f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')


@functools.cache
def files() -> dict[str, File]:
    """Every file by its path below `/static/`. A few dozen small ones: read at the first call, and kept."""
    own = {path.name: File.read(path) for path in sorted(WEB.iterdir()) if path.suffix in TYPES}
    client = {f"client/{path.name}": File.read(path) for path in sorted(CLIENT.glob("*.js"))}
    return own | client


async def chat(call: Call) -> None:
    """`GET /`."""
    await send(call, files()["index.html"])


async def docs(call: Call) -> None:
    """`GET /docs`."""
    await send(call, files()["docs.html"])


async def static(call: Call) -> None:
    """`GET /static/{name}`: what the two pages are made of. No key: it is the same for everybody."""
    found = files().get(call.path["name"])
    if found is None:
        raise TokenrelayError("NOT_FOUND", "there is nothing at this path")
    await send(call, found)


async def send(call: Call, file: File) -> None:
    """The file, or 304 to one who has it. `no-cache`: after an update nobody runs half of the old page."""
    headers = {"cache-control": "no-cache", "etag": file.etag, "content-security-policy": POLICY}
    if _has(call.headers.get("if-none-match", ""), file.etag):
        await call.start(304, headers)
        await call.write(b"", more=False)
        return
    await call.answer(200, file.body, file.content_type, headers)


def _has(if_none_match: str, etag: str) -> bool:
    """RFC 9110, section 13.1.2: any of the list, compared weakly (a proxy that compresses makes a tag weak)."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in tags)
