"""Pictures, files and sounds on their way to a provider: which a model takes, and what they are on a wire; knows no
dialect's names for them."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from tokenrelay.workers.conversation import Audio, Content, File, Image, Message, ModelRequest, Part, Text
from tokenrelay.workers.providers.base import Accepts, ProviderError

Takes = Callable[[Part], bool]
"""Whether a dialect has words for this part at all: its kind, and whether by its address or by its bytes."""

AUDIO_TYPES: Final = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def parts_of(content: Content) -> tuple[Part, ...]:
    """The content as parts; nothing for an empty text."""
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return content


def is_plain(content: Content) -> bool:
    """Text alone: every dialect takes it as a string."""
    return isinstance(content, str) or all(type(part) is Text for part in content)


def has_bytes(messages: Sequence[Message]) -> bool:
    """Whether anything has to be put into base64, which is work."""
    return any(
        not isinstance(part, Text) and part.data
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content
    )


def base64_of(part: Image | File | Audio) -> str:
    return base64.b64encode(part.data).decode()


def data_url(part: Image | File) -> str:
    """Its address, or its bytes as an address (RFC 2397)."""
    return part.url or f"data:{media_type(part)};base64,{base64_of(part)}"


def media_type(part: Image | File | Audio) -> str:
    """What it is; where nobody said so, by its name."""
    if isinstance(part, Audio):
        return AUDIO_TYPES.get(part.format, f"audio/{part.format}")
    if part.media_type:
        return part.media_type
    name = part.url.partition("?")[0] or (part.filename if isinstance(part, File) else "")
    return mimetypes.guess_type(name)[0] or ("image/jpeg" if isinstance(part, Image) else "application/pdf")


def checked(request: ModelRequest, accepts: Accepts, takes: Takes) -> ModelRequest:
    """The request with no part that cannot be sent. Raises ProviderError with the field of one that was asked for.

    What a tool gave is nobody's request: there a part that is not taken becomes a word.
    """
    if all(isinstance(message.content, str) for message in request.messages):
        return request
    return msgspec.structs.replace(
        request, messages=[_checked(message, at, accepts, takes) for at, message in enumerate(request.messages)]
    )


def _checked(message: Message, at: int, accepts: Accepts, takes: Takes) -> Message:
    if isinstance(message.content, str):
        return message
    content = tuple(_checked_parts(message, at, accepts, takes))
    if all(type(part) is Text for part in content):
        return msgspec.structs.replace(message, content="".join(part.text for part in content if type(part) is Text))
    return msgspec.structs.replace(message, content=content)


def _checked_parts(message: Message, at: int, accepts: Accepts, takes: Takes) -> Iterator[Part]:
    for number, part in enumerate(parts_of(message.content)):
        if type(part) is Text or (_is_accepted(part, accepts) and takes(part)):
            yield part
        elif message.role == "tool":
            yield Text(f"[{_name(part)} that this model cannot be shown]")
        else:
            field = f"messages[{at}].content[{number}]"
            form = "by its address" if not isinstance(part, Audio | Text) and part.url else "as it is"
            raise ProviderError(
                f"{field}: this model does not take {_name(part)} {form}",
                code="VALIDATION_ERROR",
                retryable=False,
                blame="model",
                field=field,
                is_ill=False,
            )


def _is_accepted(part: Part, accepts: Accepts) -> bool:
    if isinstance(part, Image):
        return accepts.images
    return accepts.files if isinstance(part, File) else accepts.audio


def _name(part: Part) -> str:
    return {Image: "a picture", File: "a file", Audio: "a sound"}.get(type(part), "this part")
