"""What a turn of the caller's holds, as a model is told it. Knows no Redis: whoever calls has the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenrelay.protocol.wire import parts
from tokenrelay.workers.conversation import Audio, Content, File, Image, Part, Text

NO_BYTES: Final[Mapping[int, bytes]] = {}


def content_of(content: parts.Content | None, blobs: Mapping[int, bytes] = NO_BYTES) -> Content:
    """`blobs` has the bytes of the request's parts by their number (`keys.part`). Raises KeyError for one it lacks."""
    if content is None or isinstance(content, str):
        return content or ""
    return tuple(_part(part, blobs) for part in content)


def _part(part: parts.Part, blobs: Mapping[int, bytes]) -> Part:
    match part:
        case parts.TextPart():
            return Text(part.text)
        case parts.ImagePart(part=None):
            return Image(part.image_url.url, detail=part.image_url.detail or "")
        case parts.FilePart(part=None):
            return File(part.file.filename, part.file.file_url or "")
    data = b"" if part.part is None else blobs[part.part]
    match part:
        case parts.ImagePart():
            return Image("", data, part.media_type or "", part.image_url.detail or "")
        case parts.FilePart():
            return File(part.file.filename, "", data, part.media_type or "")
        case parts.AudioPart():
            return Audio(data, part.input_audio.format)
