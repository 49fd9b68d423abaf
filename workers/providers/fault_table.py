"""Whose fault it is, as data: what providers and compatible servers say when they refuse, and what it means to us.

Four tables, asked in this order: sentences that say more than the words beside them, words (codes, types and reasons)
that mean the same with any status, sentences of errors whose words say too little, and words that count only where the
status says no more than "bad request".
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
    is_ill: bool = True  # False: it tells of the request, not of the model's health


CONTEXT: Final = Kind("PROVIDER_ERROR", "the conversation is longer than the model's context", False, "context_window")
LIMITED: Final = Kind("RATE_LIMIT", "the model's provider takes no more requests for now", True, "provider")
OVERLOADED: Final = Kind("OVERLOADED", "the model's provider is overloaded", True, "provider", 1.0)
REJECTED: Final = Kind("PROVIDER_ERROR", "the model's provider did not accept the request", False, "request")
NOT_TAKEN: Final = Kind("PROVIDER_ERROR", "the model does not take what was asked", False, "model", is_ill=False)
REFUSED: Final = Kind("PROVIDER_ERROR", "the model's provider refused to answer this", False, "request")
LOCKED_OUT: Final = Kind(
    "PROVIDER_ERROR", "the model's provider did not accept this server's credentials", False, "key"
)
NO_CREDIT: Final = Kind(
    "PROVIDER_ERROR", "this server's account with the model's provider is out of credit", False, "key"
)
TOO_LARGE: Final = Kind(
    "PROVIDER_ERROR", "the request is larger than the model's provider takes", False, "model", is_ill=False
)
MOVED: Final = Kind("PROVIDER_ERROR", "the model's provider is not at this address", False, "key")
UNKNOWN: Final = Kind("PROVIDER_ERROR", "the model's provider does not know this model", False, "model")
FAILED: Final = Kind("PROVIDER_ERROR", "the model's provider failed to answer", True, "provider")
GAVE_UP: Final = Kind("TIMEOUT", "the model's provider gave up waiting", True, "provider")

WORDS: Final[Mapping[str, Kind]] = {
    # OpenAI, and who speaks like it: https://platform.openai.com/docs/guides/error-codes
    "context_length_exceeded": CONTEXT,
    "context_window_exceeded": CONTEXT,
    "exceed_context_size_error": CONTEXT,  # llama.cpp
    "string_above_max_length": CONTEXT,
    "model_max_prompt_tokens_exceeded": CONTEXT,
    "insufficient_quota": NO_CREDIT,
    "billing_hard_limit_reached": NO_CREDIT,
    "billing_not_active": NO_CREDIT,
    "credit_balance_exhausted": NO_CREDIT,
    "organization_usage_limit_exceeded": NO_CREDIT,
    "exceeded_current_quota_error": NO_CREDIT,  # Kimi
    "insufficient_balance": NO_CREDIT,
    "insufficient_balance_error": NO_CREDIT,
    "insufficient_credit": NO_CREDIT,
    "insufficient_credits": NO_CREDIT,
    "reject_no_credit": NO_CREDIT,
    "payment_required": NO_CREDIT,
    "arrearage": NO_CREDIT,  # Alibaba
    "blocked_api_access": NO_CREDIT,  # Groq: a spend limit
    "data_residency_mismatch": LOCKED_OUT,
    "unsupported_country_region_territory": LOCKED_OUT,
    "invalid_api_key": LOCKED_OUT,
    "ip_not_authorized": LOCKED_OUT,
    "account_deactivated": LOCKED_OUT,
    "organization_deactivated": LOCKED_OUT,
    "invalid_organization": LOCKED_OUT,
    "organization_restricted": LOCKED_OUT,  # Groq
    "unsupported_value": NOT_TAKEN,
    "unsupported_parameter": NOT_TAKEN,
    "unsupported_model": NOT_TAKEN,
    "unsupported_feature": NOT_TAKEN,
    "invalid_encrypted_content": NOT_TAKEN,  # by then it was asked once more without them
    "model_not_found": UNKNOWN,
    "model_not_available": UNKNOWN,
    "model_not_supported": UNKNOWN,  # Hugging Face
    "model_decommissioned": UNKNOWN,  # Groq, with status 400
    "model_deprecated": UNKNOWN,
    "model_retired": UNKNOWN,
    "model_terms_required": UNKNOWN,
    "model_permission_blocked_org": UNKNOWN,
    "model_permission_blocked_project": UNKNOWN,
    "invalid_model": UNKNOWN,  # Mistral, with status 400
    "unknown_model": UNKNOWN,
    "modelnotfound": UNKNOWN,
    "modelnotfounderror": UNKNOWN,
    "deploymentnotfound": UNKNOWN,  # Azure
    "resource_not_found_error": UNKNOWN,  # Kimi
    "content_filter": REFUSED,
    "content_filtered": REFUSED,
    "content_policy_violation": REFUSED,
    "image_content_policy_violation": REFUSED,
    "responsibleaipolicyviolation": REFUSED,  # Azure
    "moderation_blocked": REFUSED,
    "safety_check_failed": REFUSED,
    "data_inspection_failed": REFUSED,  # Alibaba
    "datainspectionfailed": REFUSED,
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
    "overloaded_error": OVERLOADED,  # Anthropic; in its stream there is no status
    "engine_overloaded_error": OVERLOADED,  # Kimi, with status 429
    "engine_overloaded": OVERLOADED,
    "server_is_overloaded": OVERLOADED,
    "server_overloaded": OVERLOADED,
    "slow_down": OVERLOADED,
    "capacity_exceeded": OVERLOADED,  # Groq, with status 498
    "rate_limit_exceeded": LIMITED,
    # Anthropic: https://platform.claude.com/docs/en/api/errors; those of billing stand in `details.error_code`
    "organization_on_hold": NO_CREDIT,
    "linked_organization_billing_unavailable": NO_CREDIT,
    "billing_error": NO_CREDIT,
    # Google: https://ai.google.dev/gemini-api/docs/troubleshooting
    "API_KEY_INVALID": LOCKED_OUT,  # comes with status 400
    "API_KEY_SERVICE_BLOCKED": LOCKED_OUT,
    "BILLING_DISABLED": NO_CREDIT,
    "MODEL_CAPACITY_EXHAUSTED": OVERLOADED,
}
"""Words that mean the same whatever the status says; those in small letters stand for any case."""

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
    "api_error": FAILED,
    "RESOURCE_EXHAUSTED": LIMITED,
    "UNAVAILABLE": OVERLOADED,
    "INTERNAL": FAILED,
    "INVALID_ARGUMENT": REJECTED,
    "FAILED_PRECONDITION": REJECTED,
    "PERMISSION_DENIED": LOCKED_OUT,
    "UNAUTHENTICATED": LOCKED_OUT,
    "NOT_FOUND": UNKNOWN,
    "DEADLINE_EXCEEDED": GAVE_UP,
}
"""Words that are no more exact than a status; a status of its own is believed before them."""

OVERRIDING: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
    # More in one request than a whole minute may have: waiting is of no use, and its word is that of a rate.
    (re.compile(r"request too large for", re.IGNORECASE), TOO_LARGE),  # OpenAI, 429; Groq, 413
)

_SENTENCES: Final[tuple[tuple[str, Kind], ...]] = (
    # No credit.
    (r"credit balance is too low", NO_CREDIT),  # Anthropic, 400
    (r"you have reached your specified .{0,40}usage limits?", NO_CREDIT),  # Anthropic, 400
    (r"insufficient (account )?(balance|credits?|funds|quota)|balance (is )?insufficient", NO_CREDIT),  # DeepSeek, Z.ai
    (
        r"out of credits?|requires? more credits|no credits? (left|remaining)|not enough credits?",
        NO_CREDIT,
    ),  # OpenRouter
    (r"(used all|exhausted|depleted|exceeded) .{0,40}\bcredits?\b|credits? .{0,20}(depleted|exhausted)", NO_CREDIT),
    (r"(spend|spending|billing)[- ](limit|cap)", NO_CREDIT),  # xAI, Gemini, Together, Fireworks
    (r"in arrears|good standing|please recharge|overdue[- ]payment|subscription .{0,20}expired", NO_CREDIT),
    (
        r"enable billing|billing .{0,20}(disabled|not (been )?enabled|not active)",
        NO_CREDIT,
    ),  # Gemini, FAILED_PRECONDITION
    (r"(organization|account) .{0,60}(on hold|disabled|suspended|deactivated)", NO_CREDIT),  # Anthropic, Fireworks
    # A full context. Many servers have no word for it, only a sentence.
    (r"prompt is too long", CONTEXT),  # Anthropic
    (r"exceeds? (the )?context limit", CONTEXT),  # Anthropic: "input length and `max_tokens` exceed context limit"
    (r"(input )?token count .{0,40}exceeds the (maximum number of tokens|limit)", CONTEXT),  # Gemini, Copilot
    (r"exceeds the maximum number of tokens allowed", CONTEXT),
    (r"maximum context length", CONTEXT),  # OpenAI, vLLM, SGLang, Mistral, DeepSeek, OpenRouter
    (r"maximum model length", CONTEXT),  # vLLM: "… is longer than the maximum model length of 4096"
    (r"exceeds? the maximum (allowed )?(input |prompt |context )?length", CONTEXT),  # SGLang, newer ones
    (r"longer than the (model'?s?|maximum) (context|model) ?length", CONTEXT),  # SGLang, vLLM
    (r"model'?s? maximum context", CONTEXT),
    (r"maximum prompt length|maximum input length of", CONTEXT),  # xAI, vLLM
    (r"(available|the|model'?s?) context (size|window|length)", CONTEXT),  # llama.cpp, OpenAI, Ollama, LM Studio
    (r"context[_ ](window|length|size) (limit|exceed)|exceeds? (the )?(max |maximum )?context", CONTEXT),  # MiniMax
    (r"context length of only|context overflow", CONTEXT),  # LM Studio
    (r"too large for model with [\d,]+ maximum", CONTEXT),  # Mistral
    (r"exceeded model token limit|token limit exceeded|token length exceeds?", CONTEXT),  # Kimi, Alibaba
    (r"reduce the length of the (messages|prompt|input)", CONTEXT),  # Groq, Cerebras
    (r"`?inputs`? (tokens \+ `?max_new_tokens`?|must have less than)", CONTEXT),  # TGI, Together
    (r"input tokens exceed the configured limit", CONTEXT),
    (
        r"range of input length should be|exceed.{0,30}max_(num_tokens|seq_len|model_len|input_tokens)",
        CONTEXT,
    ),  # Alibaba, NIM
    (r"too many (input )?tokens|input tokens exceed", CONTEXT),  # Bedrock, Cohere
    (r"input is too long|prompt (is )?exceeds max(imum)? length|prompt too long", CONTEXT),  # Bedrock, Z.ai, Ollama
    (r"string too long\. expected a string with maximum length", CONTEXT),  # OpenAI
    # Too many bytes.
    (
        r"(payload|content|request|body) size .{0,20}(exceed|limit)|request (entity|body) (is )?too large",
        TOO_LARGE,
    ),  # Gemini
    (r"exceeds the maximum (allowed )?(number of bytes|size)|image exceeds \d", TOO_LARGE),  # Anthropic
    (r"maximum of [\d,]+ (pdf )?(pages|images)|too many images", TOO_LARGE),
    # Moderation.
    (r"requires moderation|input was flagged|flagged by moderation", REFUSED),  # OpenRouter, 403
    (r"violat\w+ (our |the )?(usage|content|safety) (guidelines|policy|policies)", REFUSED),  # xAI, 403; OpenAI
    (
        r"content (exists risk|filtering policy|management policy)|considered high risk",
        REFUSED,
    ),  # DeepSeek, Azure, Kimi
    (r"(unsafe|inappropriate|sensitive) content|new_sensitive|rejected .{0,30}safety system", REFUSED),  # Z.ai, Alibaba
    # Where we are, and with which key.
    (
        r"(location|country|region|territory)\b.{0,40}\b(not|isn't) (supported|available|allowed)",
        LOCKED_OUT,
    ),  # Gemini, 400
    (r"not (available|supported) in your (country|region|location)", LOCKED_OUT),
    (r"api key (not valid|expired|is invalid)|(incorrect|invalid) api key", LOCKED_OUT),  # xAI and Gemini, 400
    # A model that is gone.
    (r"\bmodel\b.{0,100}\b(does(n't| not) exist|not exist|(is |was )?not found|is not a valid model)", UNKNOWN),
    (r"\bmodel\b.{0,100}\bhas been (deprecated|decommissioned|retired|removed|discontinued|shut ?down)", UNKNOWN),
    (r"\bmodel\b.{0,100}\b(no longer (available|supported)|is deprecated|is (currently )?not available)", UNKNOWN),
    (
        r"(invalid|unknown|unsupported) model\b|not a valid model|no endpoints found|deployment .{0,40}not exist",
        UNKNOWN,
    ),
    (r"is not found for api version|verified to (use|stream) (the|this) model", UNKNOWN),  # Gemini, OpenAI
    # What this one does not take, and another may.
    (
        r"\b(not|n't) (supported|enabled|available|compatible|allowed)\b.{0,30}\b(this |the )?model",
        NOT_TAKEN,
    ),  # Groq, Gemini
    (r"\b(models?|models?/\S+|library/\S+)( \S+)? (does|do) not support|only supported by certain models", NOT_TAKEN),
    (r"is not a multimodal model|deprecated for this model|unknown variant `image_url`", NOT_TAKEN),  # vLLM, DeepSeek
    # Too much to do.
    (r"(is|are|currently|temporarily) overloaded|at capacity|no capacity available|high demand", OVERLOADED),
)

SENTENCES: Final = tuple((re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in _SENTENCES)

STATUSES: Final[Mapping[int, Kind]] = {
    401: LOCKED_OUT,
    402: NO_CREDIT,
    403: LOCKED_OUT,
    404: UNKNOWN,
    408: GAVE_UP,
    409: FAILED,
    410: UNKNOWN,
    413: TOO_LARGE,
    425: FAILED,
    429: LIMITED,
    451: LOCKED_OUT,
    498: OVERLOADED,  # Groq
    529: OVERLOADED,
}
"""What is not here is FAILED from 500 on, MOVED from 300 to 399, else REJECTED."""
