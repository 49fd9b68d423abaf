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


@pytest.mark.parametrize(("name", "status", "error", "outcome"), ROWS, ids=[row[0] for row in ROWS])
def test_what_they_say_tells_whose_fault_it_is(
    name: str, status: int, error: dict[str, Any], outcome: tuple[str, str, bool]
) -> None:
    found = failure(status, json.dumps({"error": error}).encode())
    assert (found.code, found.blame, found.retryable) == outcome, name


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
    ({"code": 402, "message": "no"}, "key", False),
    ({"code": 502, "message": "no"}, "provider", True),
    ({"message": "This model's maximum context length is 4096 tokens.", "code": 400}, "context_window", False),
    ({}, "provider", True),
]


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
