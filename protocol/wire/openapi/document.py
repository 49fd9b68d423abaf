"""The HTTP interface as one OpenAPI 3.1 document, made from the tables and types it describes; opens nothing.

What a type already says (the request) and what a table already says (the errors) is taken from there. Only what no
type holds is written by hand: the answers and the events.
Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from typing import Final

from tokenrelay.protocol.wire.openapi.errors import error_responses, table_as_text
from tokenrelay.protocol.wire.openapi.parts import Json
from tokenrelay.protocol.wire.openapi.paths import PATHS
from tokenrelay.protocol.wire.openapi.schemas import SCHEMAS

DOCUMENT: Final[Json] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Tokenrelay",
        "version": "1",
        "summary": "Answers of language models, token by token, over connections that may break.",
        "description": "Start a generation with `POST /api/chat`; whatever happens to the connection, carry on with "
        "`GET /api/streams/{stream_id}` and the id of the last event you have: nothing is lost, nothing comes twice. "
        "Every path that takes GET takes HEAD.\n\n## Errors\n\n" + table_as_text(),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "servers": [{"url": "/", "description": "The server that gave this document."}],
    "tags": [
        {"name": "streams", "description": "Start, follow, resume and stop generations."},
        {"name": "models", "description": "Who can answer."},
        {"name": "service", "description": "The server itself."},
    ],
    # The empty one: a server on loopback without keys needs none.
    "security": [{"bearer": []}, {"apiKey": []}, {}],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "responses": error_responses(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
            "apiKey": {
                "type": "apiKey", "in": "header", "name": "Authorization",
                "description": "`Authorization: ApiKey KEY`, the scheme in any case.",
            },
            "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "From `POST /api/tickets`."},
        },
    },
}  # fmt: skip
