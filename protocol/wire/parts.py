"""What a turn may hold beside text: pictures, files and sounds, their bounds, and their bytes apart from the request.
Knows no Redis.

A client sends bytes in base64. `take_out` leaves a number in their place (`part`), under which the bytes themselves lie
in Redis (`keys.part`); a worker finds the number and what kind of bytes they are (`media_type`).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec

from tokenrelay.protocol.errors import invalid

MAX_URL: Final = 8_192
MAX_FILENAME: Final = 255

Url: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class Bounds(msgspec.Struct, frozen=True):
    """What one request may hold beside text: so many parts, so many decoded bytes in one and in all."""

    parts: int = 20
    part_bytes: int = 10 * 1024 * 1024
    total_bytes: int = 25 * 1024 * 1024

    @property
    def body_bytes(self) -> int:
        """What the parts take in a request at most: in base64, four characters for three bytes."""
        return (self.total_bytes + 2) // 3 * 4


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text, as a string in place of the list would be."""

    text: str


class ImageUrl(msgspec.Struct, frozen=True, omit_defaults=True):
    """`url` is https, or a `data:` URL with the picture itself in base64; `detail` how closely to look at it."""

    url: Url = ""
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="image_url"):
    """A picture."""

    image_url: ImageUrl
    part: int | None = None
    media_type: str | None = None


class FileSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """`file_data` is a `data:` URL in base64, `file_url` https; one of the two is given."""

    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_FILENAME)] = "file"
    file_data: Url | None = None
    file_url: Url | None = None


class FilePart(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="file"):
    """A document."""

    file: FileSource
    part: int | None = None
    media_type: str | None = None


class AudioSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """`data` is base64."""

    format: Literal["wav", "mp3"]
    data: Url = ""


class AudioPart(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="input_audio"):
    """A sound."""

    input_audio: AudioSource
    part: int | None = None
    media_type: str | None = None


Part: TypeAlias = TextPart | ImagePart | FilePart | AudioPart
Content: TypeAlias = str | Annotated[list[Part], msgspec.Meta(min_length=1)]

KINDS: Final[dict[type[Part], str]] = {ImagePart: "images", FilePart: "files", AudioPart: "audio"}
"""What a row of the catalogue says it accepts."""

AUDIO_TYPES: Final = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def text_of(content: Content | None) -> str:
    """The text alone, its parts joined as they stand."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))


# -- checking ---------------------------------------------------------------------------------------------------------


class Total:
    """What the parts of one request come to, as they are counted one after another."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._parts = 0
        self._bytes = 0

    def count(self, field: str, content: Sequence[Part]) -> None:
        """The parts of one turn. Raises TokenrelayError VALIDATION_ERROR with the field of the part that is wrong."""
        for number, part in enumerate(content):
            if not isinstance(part, TextPart):
                self._count(f"{field}[{number}]", part)

    def _count(self, field: str, part: ImagePart | FilePart | AudioPart) -> None:
        if part.part is not None or part.media_type is not None:
            raise invalid(f"{field}.{'media_type' if part.part is None else 'part'}", "only the server numbers parts")
        self._parts += 1
        if self._parts > self._bounds.parts:
            raise invalid(field, f"expected at most {self._bounds.parts} parts that are not text in a request")
        size = _check(field, part)
        if size > self._bounds.part_bytes:
            raise invalid(field, f"expected at most {self._bounds.part_bytes} bytes, got {size}")
        self._bytes += size
        if self._bytes > self._bounds.total_bytes:
            raise invalid(field, f"expected at most {self._bounds.total_bytes} bytes in all parts of a request")


def _check(field: str, part: ImagePart | FilePart | AudioPart) -> int:
    """Its decoded size, without decoding it; 0 for an address."""
    match part:
        case ImagePart():
            url, at = part.image_url.url, f"{field}.image_url.url"
            if not url.startswith("data:"):
                return _check_address(at, url)
            media_type, start = _head(at, url)
            if not media_type.startswith("image/"):
                raise invalid(at, f"expected a picture, got {media_type}")
            return _size(url, start)
        case FilePart():
            data, address = part.file.file_data, part.file.file_url
            if (data is None) == (address is None):
                raise invalid(f"{field}.file", "expected either file_data or file_url")
            if data is None:
                return _check_address(f"{field}.file.file_url", address or "")
            return _size(data, _head(f"{field}.file.file_data", data)[1])
        case AudioPart():
            if not part.input_audio.data:
                raise invalid(f"{field}.input_audio.data", "expected base64")
            return _size(part.input_audio.data, 0)


def _check_address(field: str, url: str) -> int:
    try:
        is_address = len(url) <= MAX_URL and url.startswith("https://") and bool(urlsplit(url).hostname)
    except ValueError:  # brackets that hold no IPv6 address
        is_address = False
    if not is_address or not url.isprintable() or " " in url:
        raise invalid(field, f"expected https://… of at most {MAX_URL} characters, or data:…;base64,…")
    return 0


_HEAD: Final = re.compile(
    r"data:([A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63})(;[^,]*)?;base64,"
)
MAX_HEAD: Final = 512


def _head(field: str, url: str) -> tuple[str, int]:
    """The media type of a `data:` URL (RFC 2397), and where its data begin."""
    match = _HEAD.match(url, 0, MAX_HEAD)
    if match is None:
        raise invalid(field, "expected data:TYPE/SUBTYPE;base64,…")
    return match[1].lower(), match.end()


def _size(text: str, start: int) -> int:
    return (len(text) - start) * 3 // 4 - text.count("=", max(start, len(text) - 2))


# -- taking out -------------------------------------------------------------------------------------------------------


class Taken(NamedTuple):
    """The turns' contents with numbers in place of bytes, and the bytes by their number."""

    contents: list[Content | None]
    blobs: list[bytes]


def inline_bytes(contents: Sequence[Content | None]) -> int:
    """Characters of base64, and what stands before them, in a request's parts: all that is bounded by `Bounds`."""
    return sum(len(text) for content in contents for text in _inline(content))


def _inline(content: Content | None) -> Iterator[str]:
    if content is None or isinstance(content, str):
        return
    for part in content:
        match part:
            case ImagePart() if part.image_url.url.startswith("data:"):
                yield part.image_url.url
            case FilePart() if part.file.file_data is not None:
                yield part.file.file_data
            case AudioPart():
                yield part.input_audio.data


def spared(content: Content | None) -> Content | None:
    """The same without the bytes, of which only `take_out` says whether they are base64: for looking at the rest."""
    if content is None or isinstance(content, str):
        return content
    return [_spared(part) if any(_inline([part])) else part for part in content]


def _spared(part: Part) -> Part:
    return FilePart(FileSource(part.file.filename)) if isinstance(part, FilePart) else TextPart("")


def take_out(contents: Sequence[Content | None]) -> Taken:
    """Decode what was checked before; takes about 1 ms for each MiB, in steps that let other threads run.

    Raises TokenrelayError VALIDATION_ERROR for what is no base64.
    """
    taken = Taken([], [])
    for turn, content in enumerate(contents):
        if content is None or isinstance(content, str):
            taken.contents.append(content)
        else:
            field = f"messages[{turn}].content"
            parts = [_take(f"{field}[{number}]", part, taken.blobs) for number, part in enumerate(content)]
            taken.contents.append(parts)
    return taken


def _take(field: str, part: Part, blobs: list[bytes]) -> Part:
    match part:
        case ImagePart() if part.image_url.url.startswith("data:"):
            at = f"{field}.image_url.url"
            media_type, start = _head(at, part.image_url.url)
            blobs.append(_decoded(at, part.image_url.url, start))
            return ImagePart(ImageUrl(detail=part.image_url.detail), len(blobs) - 1, media_type)
        case FilePart() if part.file.file_data is not None:
            at = f"{field}.file.file_data"
            media_type, start = _head(at, part.file.file_data)
            blobs.append(_decoded(at, part.file.file_data, start))
            return FilePart(FileSource(part.file.filename), len(blobs) - 1, media_type)
        case AudioPart():
            blobs.append(_decoded(f"{field}.input_audio.data", part.input_audio.data, 0))
            source = AudioSource(part.input_audio.format)
            return AudioPart(source, len(blobs) - 1, AUDIO_TYPES[source.format])
        case _:
            return part


STEP: Final = 64 * 1024
"""Characters decoded at a time, a multiple of four. `binascii` keeps the interpreter's lock while it decodes: in one
piece 10 MiB would hold up everybody for 20 ms."""


def _decoded(field: str, text: str, start: int) -> bytes:
    pieces: list[bytes] = []
    try:
        for at in range(start, len(text), STEP):
            piece = binascii.a2b_base64(text[at : at + STEP], strict_mode=True)
            if at + STEP < len(text) and len(piece) != STEP // 4 * 3:
                raise ValueError("padding within")
            pieces.append(piece)
    except ValueError as error:  # binascii.Error is one, and so is what is not ASCII
        raise invalid(field, "expected base64 (RFC 4648 section 4)") from error
    if not any(pieces):
        raise invalid(field, "expected some bytes")
    return b"".join(pieces)
