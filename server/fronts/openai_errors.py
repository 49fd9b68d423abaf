"""Errors as OpenAI's SDKs read them: always JSON, and a head that says whether trying again can help."""

from __future__ import annotations

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.fronts import openai
from tokenrelay.protocol.wire import event_json
from tokenrelay.server.net import refusal


def told(error: TokenrelayError, request_id: str) -> refusal.Answer:
    body = event_json.to_json(openai.error_object(error)).encode()
    retry = bool(error.fields.get("retryable", error.row.retryable))
    return refusal.in_form(
        error, request_id, openai.status_of(error), body, "application/json",
        x_should_retry="true" if retry else "false",
    )  # fmt: skip
