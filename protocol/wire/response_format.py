"""The form an answer shall have: `response_format` of a request. Knows no model."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec

MAX_DESCRIPTION: Final = 16_384


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text as the model writes it."""


class JsonObjectFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """One JSON object."""


class JsonSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """`schema` is a JSON Schema; with `strict` the answer follows it by the letter."""

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION)] | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: JsonSchema


ResponseFormat: TypeAlias = TextFormat | JsonObjectFormat | JsonSchemaFormat
