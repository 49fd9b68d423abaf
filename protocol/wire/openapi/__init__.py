"""The HTTP interface as one OpenAPI 3.1 document."""

from tokenrelay.protocol.wire.openapi.document import DOCUMENT

__all__ = ["DOCUMENT"]
