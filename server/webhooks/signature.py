"""The headers of a webhook as Standard Webhooks 1.0 has them. Knows no body's meaning.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable


def headers(message_id: str, at_s: int, body: bytes, secrets: Iterable[bytes]) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and a `webhook-signature` of each secret, of exactly these bytes."""
    signed = f"{message_id}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
