"""Whether a call's arguments fit the tool's JSON Schema; says in one sentence what does not. Calls nothing.

A schema that is not our own may take for ever: `workers.tools.checker` asks from outside the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

MAX_ISSUE: Final = 400


def issue(arguments: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments; None when they fit, or when the schema itself is wrong and says nothing."""
    from jsonschema.exceptions import SchemaError, best_match  # 0.1 s: only who calls a tool pays
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(_validator(msgspec.json.encode(schema)).iter_errors(arguments))
    except (SchemaError, Unresolvable):
        return None
    if error is None:
        return None
    where = error.json_path.removeprefix("$").lstrip(".") or "arguments"
    return f"{where}: {error.message}"[:MAX_ISSUE]


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Draft202012Validator:
    """Raises SchemaError."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    decoded = msgspec.json.decode(schema)
    Draft202012Validator.check_schema(decoded)
    # A schema of somebody else's server may point anywhere: an empty registry fetches nothing.
    return Draft202012Validator(decoded, registry=Registry())
