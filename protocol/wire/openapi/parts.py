"""Small pieces that every part of the document is made of."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

REF: Final = "#/components/schemas/{name}"
STREAM_ID: Final = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2"
MODEL: Final = "scripted?tokens=2"
AT_MS: Final = 1_793_880_000_000


def ref(name: str) -> Json:
    return {"$ref": REF.format(name=name)}


def object_schema(description: str, required: dict[str, Json], optional: dict[str, Json] | None = None) -> Json:
    """An object schema. Unknown fields stay allowed: a later version may add some, and clients pass over them."""
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def text(description: str, **more: Any) -> Json:
    return {"type": "string", "description": description, **more}


def count(description: str) -> Json:
    return {"type": "integer", "minimum": 0, "description": description}


def seconds(description: str) -> Json:
    return {"type": "number", "minimum": 0, "description": description}


def or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of_the_words(words: Any, description: str) -> Json:
    return {"type": "string", "enum": list(words), "description": description}
