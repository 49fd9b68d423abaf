"""Whose fault it is, as data: what providers and compatible servers say when they refuse, and what it means to us.

Three tables, asked in this order: words (codes, types and reasons) that mean the same with any status, sentences of
errors whose words say too little, and words that count only where the status says no more than "bad request".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from tokenrelay.workers.providers.base import Blame


class Kind(msgspec.Struct, frozen=True):
    """One kind of failure: the code and the sentence for the client, whether the same may succeed later, and whose
    fault it is. `retry_after_s` where the provider names no time itself."""

    code: str
    message: str
    retryable: bool
    blame: Blame
    retry_after_s: float | None = None


CONTEXT: Final = Kind("PROVIDER_ERROR", "the conversation is longer than the model's context", False, "context_window")
LIMITED: Final = Kind("RATE_LIMIT", "the model's provider takes no more requests for now", True, "provider")
OVERLOADED: Final = Kind("OVERLOADED", "the model's provider is overloaded", True, "provider", 1.0)
REJECTED: Final = Kind("PROVIDER_ERROR", "the model's provider did not accept the request", False, "request")
NOT_TAKEN: Final = Kind("PROVIDER_ERROR", "the model does not take what was asked", False, "model")
REFUSED: Final = Kind("PROVIDER_ERROR", "the model's provider refused to answer this", False, "request")
LOCKED_OUT: Final = Kind(
    "PROVIDER_ERROR", "the model's provider did not accept this server's credentials", False, "key"
)
NO_CREDIT: Final = Kind(
    "PROVIDER_ERROR", "this server's account with the model's provider is out of credit", False, "key"
)
UNKNOWN: Final = Kind("PROVIDER_ERROR", "the model's provider does not know this model", False, "model")
FAILED: Final = Kind("PROVIDER_ERROR", "the model's provider failed to answer", True, "provider")
GAVE_UP: Final = Kind("TIMEOUT", "the model's provider gave up waiting", True, "provider")

WORDS: Final[Mapping[str, Kind]] = {
    # OpenAI, and who speaks like it: https://platform.openai.com/docs/guides/error-codes
    "context_length_exceeded": CONTEXT,
    "exceed_context_size_error": CONTEXT,  # llama.cpp
    "string_above_max_length": CONTEXT,
    "model_max_prompt_tokens_exceeded": CONTEXT,
    "insufficient_quota": NO_CREDIT,
    "billing_hard_limit_reached": NO_CREDIT,
    "billing_not_active": NO_CREDIT,
    "credit_balance_exhausted": NO_CREDIT,
    "organization_usage_limit_exceeded": NO_CREDIT,
    "organization_spend_limit_exceeded": NO_CREDIT,
    "project_spend_limit_exceeded": NO_CREDIT,
    "exceeded_current_quota_error": NO_CREDIT,  # Kimi
    "insufficient_balance": NO_CREDIT,
    "insufficient_credits": NO_CREDIT,
    "data_residency_mismatch": LOCKED_OUT,
    "invalid_api_key": LOCKED_OUT,
    "account_deactivated": LOCKED_OUT,
    "unsupported_value": NOT_TAKEN,
    "unsupported_parameter": NOT_TAKEN,
    "unsupported_model": NOT_TAKEN,
    "invalid_encrypted_content": NOT_TAKEN,  # by then it was asked once more without them
    "model_not_found": UNKNOWN,
    "model_not_available": UNKNOWN,
    "content_filter": REFUSED,
    "content_policy_violation": REFUSED,
    "image_content_policy_violation": REFUSED,
    "moderation_blocked": REFUSED,
    "data_inspection_failed": REFUSED,  # Alibaba
    "invalid_prompt": REFUSED,
    "bio_policy": REFUSED,
    "cyber_policy": REFUSED,
    "misalignment_policy_violation": REFUSED,
    # The response's own errors about pictures: the same picture fails everywhere.
    "invalid_image": REJECTED,
    "invalid_image_format": REJECTED,
    "invalid_base64_image": REJECTED,
    "invalid_image_url": REJECTED,
    "invalid_image_mode": REJECTED,
    "image_too_large": REJECTED,
    "image_too_small": REJECTED,
    "image_parse_error": REJECTED,
    "image_file_too_large": REJECTED,
    "unsupported_image_media_type": REJECTED,
    "empty_image_file": REJECTED,
    "failed_to_download_image": REJECTED,
    "image_file_not_found": REJECTED,
    "rate_limit_exceeded": LIMITED,
    # Anthropic: https://platform.claude.com/docs/en/api/errors; those of billing stand in `details.error_code`
    "enforced_spend_limit_reached": NO_CREDIT,
    "organization_on_hold": NO_CREDIT,
    "linked_organization_billing_unavailable": NO_CREDIT,
    "billing_error": NO_CREDIT,
    # Google: https://ai.google.dev/gemini-api/docs/troubleshooting
    "API_KEY_INVALID": LOCKED_OUT,  # comes with status 400
    "BILLING_DISABLED": NO_CREDIT,
}
"""Words that mean the same whatever the status says."""

WORD_ENDINGS: Final[Mapping[str, Kind]] = {
    "_spend_limit_reached": NO_CREDIT,  # Anthropic has one for an organization, a workspace, a user
    "_spend_limit_exceeded": NO_CREDIT,
}

BAD_REQUEST_WORDS: Final[Mapping[str, Kind]] = {
    "invalid_request_error": REJECTED,
    "rate_limit_error": LIMITED,
    "authentication_error": LOCKED_OUT,
    "permission_error": LOCKED_OUT,
    "not_found_error": UNKNOWN,
    "request_too_large": CONTEXT,
    "timeout_error": GAVE_UP,
    "RESOURCE_EXHAUSTED": LIMITED,
    "INVALID_ARGUMENT": REJECTED,
    "FAILED_PRECONDITION": REJECTED,
    "PERMISSION_DENIED": LOCKED_OUT,
    "UNAUTHENTICATED": LOCKED_OUT,
    "NOT_FOUND": UNKNOWN,
    "DEADLINE_EXCEEDED": GAVE_UP,
}
"""Words that are no more exact than a status; a status of its own is believed before them."""

_SENTENCES: Final[tuple[tuple[str, Kind], ...]] = (
    # A full context. Many servers have no word for it, only a sentence.
    (r"prompt is too long", CONTEXT),  # Anthropic
    (r"exceeds? (the )?context limit", CONTEXT),  # Anthropic: "input length and `max_tokens` exceed context limit"
    (r"(input )?token count .{0,40}exceeds the maximum number of tokens", CONTEXT),  # Gemini
    (r"exceeds the maximum number of tokens allowed", CONTEXT),
    (r"maximum context length", CONTEXT),  # OpenAI, vLLM, SGLang, Mistral, DeepSeek, OpenRouter
    (r"maximum model length", CONTEXT),  # vLLM: "… is longer than the maximum model length of 4096"
    (r"longer than the (model'?s?|maximum) (context|model) ?length", CONTEXT),  # SGLang, vLLM
    (r"model'?s? maximum context", CONTEXT),
    (r"maximum prompt length", CONTEXT),  # xAI
    (r"(available|the|model'?s?) context (size|window|length)", CONTEXT),  # llama.cpp, OpenAI, Ollama
    (r"context[_ ](window|length|size) (limit|exceeded)|exceeds? (the )?(max |maximum )?context", CONTEXT),
    (r"too large for model with [\d,]+ maximum", CONTEXT),  # Mistral
    (r"exceeded model token limit", CONTEXT),  # Kimi
    (r"reduce the length of the (messages|prompt|input)", CONTEXT),  # Groq, Cerebras
    (r"`?inputs`? tokens \+ `?max_new_tokens`?", CONTEXT),  # TGI, Together
    (r"input tokens exceed the configured limit", CONTEXT),
    (r"too many (input )?tokens", CONTEXT),  # Bedrock, Cohere
    (r"input is too long|prompt (is )?exceeds max(imum)? length|prompt too long", CONTEXT),  # Bedrock, Z.ai, Ollama
    # No credit.
    (r"credit balance is too low", NO_CREDIT),  # Anthropic, 400
    (r"you have reached your specified .{0,40}usage limits?", NO_CREDIT),  # Anthropic, 400
    (r"insufficient (balance|credits?|funds)|out of credits?", NO_CREDIT),  # DeepSeek, OpenRouter
    (r"organization .{0,40}(on hold|disabled)", NO_CREDIT),
    # Moderation.
    (r"requires moderation|input was flagged|flagged by moderation", REFUSED),  # OpenRouter, 403
)

SENTENCES: Final = tuple((re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in _SENTENCES)

STATUSES: Final[Mapping[int, Kind]] = {
    401: LOCKED_OUT,
    402: NO_CREDIT,
    403: LOCKED_OUT,
    404: UNKNOWN,
    408: GAVE_UP,
    409: FAILED,
    429: LIMITED,
    529: OVERLOADED,
}
"""What is not here is FAILED from 500 on, else REJECTED."""
