"""Whose fault it is: what providers really say, and who may answer instead. Then what of it goes to the log."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tokenrelay.workers.providers.faults import Fault, failure, mid_stream_failure, quotable

BAD: Final = "invalid_request_error"
KEY: Final = ("PROVIDER_ERROR", "key", False)
CONTEXT: Final = ("PROVIDER_ERROR", "context_window", False)
MODEL: Final = ("PROVIDER_ERROR", "model", False)
NOBODY: Final = ("PROVIDER_ERROR", "request", False)
LATER: Final = ("PROVIDER_ERROR", "provider", True)
"""The code, the blame, and whether the same may succeed later."""

ROWS: Final[list[tuple[str, int, dict[str, Any], tuple[str, str, bool]]]] = [
    # who says it, status, error, and what it is here
    ("anybody's 402", 402, {"message": "Insufficient Balance"}, KEY),
    ("Anthropic", 400, {"type": BAD, "message": "Your credit balance is too low to access the API."}, KEY),
    (
        "OpenAI",
        429,
        {"type": "insufficient_quota", "code": "insufficient_quota", "message": "You exceeded your current quota"},
        KEY,
    ),
    ("OpenAI: spend limit", 429, {"type": "insufficient_quota", "code": "project_spend_limit_exceeded"}, KEY),
    (
        "Anthropic: spend limit",
        429,
        {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}},
        KEY,
    ),
    (
        "Anthropic: a workspace's",
        429,
        {"type": "rate_limit_error", "details": {"error_code": "workspace_spend_limit_reached"}},
        KEY,
    ),
    (
        "Anthropic: usage limits",
        400,
        {"type": BAD, "message": "You have reached your specified workspace API usage limits."},
        KEY,
    ),
    ("Anthropic: on hold", 400, {"type": BAD, "details": {"error_code": "organization_on_hold"}}, KEY),
    (
        "Anthropic: linked billing",
        400,
        {"type": BAD, "details": {"error_code": "linked_organization_billing_unavailable"}},
        KEY,
    ),
    ("Kimi", 429, {"type": "exceeded_current_quota_error", "message": "suspended"}, KEY),
    (
        "Gemini: too many",
        429,
        {
            "code": 429,
            "status": "RESOURCE_EXHAUSTED",
            "message": "You exceeded your current quota, please check your plan.",
        },
        ("RATE_LIMIT", "provider", True),
    ),
    # A full context
    (
        "Gemini",
        400,
        {
            "code": 400,
            "status": "INVALID_ARGUMENT",
            "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        },
        CONTEXT,
    ),
    (
        "vLLM",
        400,
        {
            "code": 400,
            "type": "BadRequestError",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        },
        CONTEXT,
    ),
    (
        "vLLM: decoder",
        400,
        {"code": 400, "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
        CONTEXT,
    ),
    (
        "SGLang",
        400,
        {"message": "Requested token count exceeds the model's maximum context length of 4096 tokens."},
        CONTEXT,
    ),
    (
        "SGLang: input",
        400,
        {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."},
        CONTEXT,
    ),
    (
        "Mistral",
        400,
        {
            "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "code": "3051",
        },
        CONTEXT,
    ),
    ("Anthropic: prompt", 400, {"type": BAD, "message": "prompt is too long: 210000 tokens > 200000 maximum"}, CONTEXT),
    (
        "Anthropic: with max_tokens",
        400,
        {"type": BAD, "message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"},
        CONTEXT,
    ),
    (
        "OpenAI Responses",
        400,
        {
            "type": BAD,
            "code": "context_length_exceeded",
            "message": "Your input exceeds the context window of this model.",
        },
        CONTEXT,
    ),
    (
        "llama.cpp",
        400,
        {"code": 400, "type": "exceed_context_size_error", "message": "the request exceeds the available context size"},
        CONTEXT,
    ),
    ("Ollama", 400, {"message": "prompt too long; exceeded max context length by 200 tokens"}, CONTEXT),
    (
        "Kimi: context",
        400,
        {"type": BAD, "message": "Invalid request: Your request exceeded model token limit: 8192"},
        CONTEXT,
    ),
    (
        "xAI",
        400,
        {"message": "This model's maximum prompt length is 131072 but the request contains 140000 tokens."},
        CONTEXT,
    ),
    ("Groq", 400, {"message": "Please reduce the length of the messages or completion."}, CONTEXT),
    (
        "tokens of a minute are no context",
        429,
        {"message": "too many tokens per minute"},
        ("RATE_LIMIT", "provider", True),
    ),
    # Something of the request that this model does not take
    ("unsupported value", 400, {"type": BAD, "code": "unsupported_value", "param": "reasoning.effort"}, MODEL),
    ("sealed thoughts", 400, {"type": BAD, "code": "invalid_encrypted_content"}, MODEL),
    # Nobody is to answer
    (
        "OpenRouter",
        403,
        {"code": 403, "message": "requires moderation", "metadata": {"reasons": ["x"], "flagged_input": "y"}},
        NOBODY,
    ),
    ("OpenAI: picture", 400, {"code": "image_content_policy_violation"}, NOBODY),
    ("a wrong request", 400, {"type": BAD, "message": "messages: required"}, NOBODY),
    # As before
    ("a key", 401, {"type": BAD, "code": "invalid_api_key"}, KEY),
    ("a key, by status alone", 403, {"message": "no"}, KEY),
    ("overloaded", 529, {"type": "overloaded_error"}, ("OVERLOADED", "provider", True)),
    ("a fault of theirs", 500, {"type": BAD}, LATER),
]

MORE: Final[list[tuple[str, int, dict[str, Any], tuple[str, str, bool]]]] = [
    # No credit
    ("Gemini: prepaid", 402, {"code": 402, "status": "RESOURCE_EXHAUSTED", "message": "Prepaid credits."}, KEY),
    ("Gemini: 429", 429, {"status": "RESOURCE_EXHAUSTED", "message": "Your prepayment credits are depleted."}, KEY),
    ("Gemini: cap", 429, {"status": "RESOURCE_EXHAUSTED", "message": "exceeded its monthly spending cap."}, KEY),
    (
        "Gemini: no plan",
        400,
        {"status": "FAILED_PRECONDITION", "message": "Please enable billing on your project."},
        KEY,
    ),
    ("OpenRouter: credits", 402, {"code": 402, "message": "This request requires more credits"}, KEY),
    ("Z.ai: no balance", 429, {"code": "1113", "message": "Insufficient balance or no resource package."}, KEY),
    ("Groq: spend", 400, {"type": BAD, "code": "blocked_api_access", "message": "Spend alert"}, KEY),
    ("Fireworks", 412, {"message": "Account acme is suspended, possibly due to reaching the spending limit"}, KEY),
    ("Alibaba", 400, {"code": "Arrearage", "message": "Access denied, your account is in good standing?"}, KEY),
    ("Perplexity", 401, {"type": "insufficient_quota", "message": "exceeded your current quota"}, KEY),
    ("Hugging Face", 402, {"message": "You have exceeded your monthly included credits"}, KEY),
    ("Anthropic: 402", 402, {"type": "billing_error", "message": "There is an issue with billing."}, KEY),
    # Where we are, and with which key
    ("OpenAI: region", 403, {"code": "unsupported_country_region_territory", "message": "Country, region"}, KEY),
    (
        "Gemini: region",
        400,
        {"status": "FAILED_PRECONDITION", "message": "User location is not supported for the API use."},
        KEY,
    ),
    ("Gemini: a key that expired", 400, {"status": "INVALID_ARGUMENT", "message": "API key expired."}, KEY),
    ("a provider that has moved", 302, {}, KEY),
    # A full context
    (
        "vLLM: now",
        400,
        {"code": 400, "message": "You passed 4097 input tokens. However, the model's context length is only 4096."},
        CONTEXT,
    ),
    (
        "SGLang: now",
        400,
        {"message": "Input length (5 tokens) exceeds the maximum allowed length (4 tokens)."},
        CONTEXT,
    ),
    ("LM Studio", 400, {"message": "tokens to keep from the prompt is greater than the context length"}, CONTEXT),
    ("MiniMax", 400, {"message": "invalid params, context window exceeds limit (2013)"}, CONTEXT),
    ("Copilot", 400, {"message": "prompt token count of 70000 exceeds the limit of 64000"}, CONTEXT),
    ("Fireworks: context", 400, {"message": "The prompt is too long: 9, model maximum context length: 8"}, CONTEXT),
    (
        "Together",
        422,
        {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193"},
        CONTEXT,
    ),
    ("Alibaba: context", 400, {"message": "Range of input length should be [1, 30720]"}, CONTEXT),
    ("Z.ai: context", 400, {"code": "1261", "message": "Prompt exceeds max length"}, CONTEXT),
    ("Bedrock", 400, {"message": "Input is too long for requested model."}, CONTEXT),
    ("Cerebras", 400, {"code": "context_length_exceeded", "message": "Please reduce the length."}, CONTEXT),
    (
        "llama.cpp before",
        500,
        {"message": "the request exceeds the available context size, try increasing it"},
        CONTEXT,
    ),
    # Too many bytes: others take more
    ("Anthropic: bytes", 413, {"type": "request_too_large", "message": "Request exceeds it"}, CONTEXT),
    ("Anthropic: a picture", 400, {"type": BAD, "message": "image exceeds 5 MB maximum: 6291456 bytes > 5"}, MODEL),
    ("Gemini: bytes", 400, {"status": "INVALID_ARGUMENT", "message": "Request payload size exceeds the limit"}, MODEL),
    ("a proxy's 413", 413, {}, MODEL),
    (
        "Groq: more than a minute's",
        413,
        {
            "type": "tokens",
            "code": "rate_limit_exceeded",
            "message": "Request too large for model `x` on tokens per min",
        },
        MODEL,
    ),
    # A model that is gone
    ("OpenAI: no model", 404, {"type": BAD, "code": "model_not_found", "message": "does not exist"}, MODEL),
    ("Anthropic: no model", 404, {"type": "not_found_error", "message": "model: claude-9"}, MODEL),
    ("Gemini: no model", 404, {"status": "NOT_FOUND", "message": "models/x is not found for API version v1"}, MODEL),
    ("Groq: decommissioned", 400, {"type": BAD, "code": "model_decommissioned", "message": "gone"}, MODEL),
    ("DeepSeek: no model", 400, {"type": BAD, "message": "Model Not Exist"}, MODEL),
    ("Mistral: no model", 400, {"type": "invalid_model", "code": "1500", "message": "Invalid model: x"}, MODEL),
    ("vLLM: no model", 404, {"type": "NotFoundError", "code": 404, "message": "The model `x` does not exist."}, MODEL),
    ("OpenRouter: no model", 400, {"code": 400, "message": "acme/x is not a valid model ID"}, MODEL),
    ("OpenRouter: nobody", 404, {"code": 404, "message": "No endpoints found that support image input"}, MODEL),
    ("Azure: no deployment", 404, {"code": "DeploymentNotFound", "message": "no"}, MODEL),
    ("retired", 410, {"message": "gone"}, MODEL),
    # What it does not take
    ("Ollama: no tools", 400, {"message": "registry.ollama.ai/library/x does not support tools"}, MODEL),
    ("OpenAI: no pictures", 400, {"type": BAD, "message": "image_url is only supported by certain models."}, MODEL),
    ("Gemini: no sound", 400, {"message": "Audio input modality is not enabled for models/gemini-x"}, MODEL),
    ("vLLM: no pictures", 400, {"message": "At most 0 image(s); x is not a multimodal model"}, MODEL),
    ("Groq: no tools", 400, {"type": BAD, "message": "`tool calling` is not supported with this model"}, MODEL),
    # Refused
    ("DeepSeek: content", 400, {"type": BAD, "message": "Content Exists Risk"}, NOBODY),
    ("Azure: content", 400, {"code": "content_filter", "message": "The response was filtered"}, NOBODY),
    ("Azure: prompt", 400, {"message": "triggering Azure OpenAI's content management policy"}, NOBODY),
    ("Alibaba: content", 400, {"code": "data_inspection_failed"}, NOBODY),
    ("Kimi: content", 400, {"type": "content_filter", "message": "considered high risk"}, NOBODY),
    (
        "Z.ai: content",
        400,
        {"code": "1301", "message": "System detected potentially unsafe or sensitive content"},
        NOBODY,
    ),
    ("Anthropic: content", 500, {"type": "api_error", "message": "Output blocked by content filtering policy"}, NOBODY),
    # Overloaded, or later
    ("OpenAI: slow down", 503, {"code": "slow_down"}, ("OVERLOADED", "provider", True)),
    ("Kimi: busy", 429, {"type": "engine_overloaded_error"}, ("OVERLOADED", "provider", True)),
    ("Groq: flex", 498, {"code": "capacity_exceeded"}, ("OVERLOADED", "provider", True)),
    (
        "Gemini: busy",
        503,
        {"status": "UNAVAILABLE", "message": "The model is overloaded."},
        ("OVERLOADED", "provider", True),
    ),
    ("a gateway's", 524, {}, LATER),
    ("OpenAI: too many", 429, {"type": "requests", "code": "rate_limit_exceeded"}, ("RATE_LIMIT", "provider", True)),
]


@pytest.mark.parametrize(("name", "status", "error", "outcome"), ROWS + MORE, ids=[row[0] for row in ROWS + MORE])
def test_what_they_say_tells_whose_fault_it_is(
    name: str, status: int, error: dict[str, Any], outcome: tuple[str, str, bool]
) -> None:
    found = failure(status, json.dumps({"error": error}).encode())
    assert (found.code, found.blame, found.retryable) == outcome, name


PLAIN: Final = [
    # xAI says why beside its word
    (403, {"code": "permission-denied", "error": "Content violates usage guidelines. Failed check: BIO"}, NOBODY),
    (403, {"code": "permission-denied", "error": "Access to the chat endpoint is denied"}, KEY),
    (
        429,
        {"code": "exhausted", "error": "Your team has used all available credits or reached its spending limit."},
        KEY,
    ),
    (400, {"code": "invalid", "error": "Incorrect API key provided: xa***"}, KEY),
    # Ollama's own
    (404, {"error": 'model "x" not found, try pulling it first'}, MODEL),
    (400, {"error": "the input length exceeds the context length"}, CONTEXT),
]


@pytest.mark.parametrize(("status", "body", "outcome"), PLAIN)
def test_an_error_may_be_a_sentence_alone(status: int, body: dict[str, Any], outcome: tuple[str, str, bool]) -> None:
    found = failure(status, json.dumps(body).encode())
    assert (found.code, found.blame, found.retryable) == outcome


BARE: Final = [
    ("vLLM before", {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}),
    (
        "Mistral",
        {"object": "error", "message": "Prompt contains 9 tokens, too large for model with 8 maximum", "code": "3"},
    ),
    ("FastAPI", {"detail": "The input (9 tokens) is longer than the model's context length (8 tokens)."}),
]


@pytest.mark.parametrize(("name", "body"), BARE, ids=[row[0] for row in BARE])
def test_an_error_without_its_envelope_is_read_too(name: str, body: dict[str, Any]) -> None:
    assert failure(400, json.dumps(body).encode()).blame == "context_window", name


IN_STREAM: Final[list[tuple[dict[str, Any], str, bool]]] = [
    ({"code": "data_residency_mismatch"}, "key", False),
    ({"code": "invalid_image_format"}, "request", False),
    ({"code": "image_content_policy_violation"}, "request", False),
    ({"code": "server_error"}, "provider", True),
    ({"type": "overloaded_error"}, "provider", True),
    ({"code": 503, "status": "UNAVAILABLE", "message": "overloaded"}, "provider", True),
    ({"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}, "key", False),
    ({"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}, "request", False),
    ({"type": "api_error", "message": "Internal server error"}, "provider", True),
    ({"status": "INTERNAL"}, "provider", True),
    ({"code": 402, "message": "no"}, "key", False),
    ({"code": 502, "message": "no"}, "provider", True),
    ({"message": "This model's maximum context length is 4096 tokens.", "code": 400}, "context_window", False),
    ({}, "provider", True),
]


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "overloaded_error", "message": "Overloaded"},  # Anthropic: what would be a 529 before the stream
        {"code": 529},
        {"code": 503, "status": "UNAVAILABLE", "message": "The model is overloaded."},
    ],
)
def test_overloaded_in_the_stream_is_what_it_is_before_it(fault: dict[str, Any]) -> None:
    found = mid_stream_failure(Fault(**fault))
    assert (found.code, found.blame, found.retryable) == ("OVERLOADED", "provider", True)
    assert found.retry_after_s


@pytest.mark.parametrize(("fault", "blame", "retryable"), IN_STREAM)
def test_in_the_stream_as_well(fault: dict[str, Any], blame: str, retryable: bool) -> None:
    found = mid_stream_failure(Fault(**fault))
    assert (found.blame, found.retryable) == (blame, retryable)


QUOTES: Final = [
    ("no such model: gpt-9", "no such model: gpt-9"),
    ("cannot parse 'tell me a secret'", "cannot parse '…'"),
    ("cannot parse 'two\nlines here'", "cannot parse '…'"),
    ('cannot parse "a \\"quoted\\" word"', 'cannot parse "…'),
    ("secret", "secret"),  # fewer than 8 characters
    ("x" * 400, "x" * 300),
    ("bad key sk-very-secret", "bad key…"),
]


@pytest.mark.parametrize(("message", "shown"), QUOTES)
def test_the_log_has_their_words_and_not_the_prompt(message: str, shown: str) -> None:
    text = 'tell me a secret; two\nlines here; a "quoted" word'
    request = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    assert quotable(message, request, "Bearer sk-very-secret") == shown


def test_a_long_request_is_not_compared_and_nothing_is_shown() -> None:
    assert quotable("anything", b"x" * 3_000_000) == "…"
