"""What a provider is: given one round of a conversation it yields what the model writes. Knows no Redis and no
client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from tokenrelay.workers.conversation import Image, ModelRequest, Piece


class Accepts(msgspec.Struct, frozen=True):
    """Which parts of a `ModelRequest` a model takes, as its row of the catalogue says. What it does not take is left
    out of what is sent.

    `token_limit_field` is what it calls `max_tokens`; None: what its dialect calls it. A model that `thinks` is asked
    to tell its thoughts. `efforts` are the levels of effort it knows; none: it is not told of any. `extra` is merged
    into the body, `api_version` stands in the path where the dialect has one, `max_output` bounds `max_tokens`.
    """

    temperature: bool = True
    top_p: bool = True
    stop: bool = True
    seed: bool = True
    tools: bool = True
    token_limit_field: str | None = None
    thinks: bool = False
    images: bool = True
    files: bool = True
    audio: bool = True
    response_format: bool = True
    tool_choice: bool = True
    parallel_tool_calls: bool = True
    strict: bool = True
    image_detail: bool = True
    efforts: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}
    api_version: str | None = None
    max_output: int | None = None
    max_temperature: float = 2.0


OPTIONAL: Final = (
    "temperature", "top_p", "stop", "seed", "tools", "response_format", "tool_choice", "parallel_tool_calls",
)  # fmt: skip
"""The parts that may be left out: fields of `ModelRequest`, and of `Accepts`."""

PLAIN: Final[Mapping[str, Any]] = {"type": "text"}

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""From least to most."""


def _dropped(request: ModelRequest, accepts: Accepts) -> list[str]:
    """Fields of the request that are not sent: the model does not take them, or there is nothing that they speak of."""
    # An empty list of tools or stops asks for nothing; a temperature or a seed of 0 does.
    parts = [part for part in OPTIONAL if not getattr(accepts, part) and getattr(request, part) not in (None, (), [])]
    if request.tool_choice not in (None, "auto", "none") and not request.tools and "tool_choice" not in parts:
        parts.append("tool_choice")
    if request.parallel_tool_calls is not None and not request.tools and "parallel_tool_calls" not in parts:
        parts.append("parallel_tool_calls")
    return parts


def left_out(request: ModelRequest, accepts: Accepts) -> tuple[str, ...]:
    """The parts of `request` that a model which takes no more than `accepts` is not told as they were asked, by their
    names."""
    # Text is what all of them write: who asks for it misses nothing.
    is_plain = request.response_format == PLAIN
    parts = [part for part in _dropped(request, accepts) if part != "response_format" or not is_plain]
    if accepts.max_temperature < (request.temperature or 0) and "temperature" not in parts:
        parts.append("temperature")
    if accepts.max_output is not None and accepts.max_output < (request.max_tokens or 0):
        parts.append("max_tokens")
    if not accepts.strict and any(tool.strict for tool in request.tools):
        parts.append("strict")
    if not accepts.image_detail and _has_detail(request):
        parts.append("image_url.detail")
    if request.effort is not None and request.effort not in accepts.efforts:
        parts.append("effort")
    return tuple(parts)


def _has_detail(request: ModelRequest) -> bool:
    """Whether a picture is to be looked at in a way of its own."""
    contents = (message.content for message in request.messages if not isinstance(message.content, str))
    return any(isinstance(part, Image) and part.detail not in ("", "auto") for parts in contents for part in parts)


def fitted(request: ModelRequest, accepts: Accepts) -> ModelRequest:
    """The request without those parts, with the nearest level of effort and a bound that the model can keep."""
    nothing: dict[str, Any] = {part: () if part in ("stop", "tools") else None for part in _dropped(request, accepts)}
    if accepts.temperature and accepts.max_temperature < (request.temperature or 0):
        nothing["temperature"] = accepts.max_temperature
    if request.effort is not None:
        nothing["effort"] = nearest(request.effort, accepts.efforts)
    if request.max_tokens is not None and accepts.max_output is not None:
        nothing["max_tokens"] = min(request.max_tokens, accepts.max_output)
    return msgspec.structs.replace(request, **nothing) if nothing else request


def nearest(effort: str, efforts: Sequence[str]) -> str | None:
    """The level that is nearest to what was asked, of equals the lower one; None where there is none."""
    known = [level for level in EFFORTS if level in efforts]
    if effort not in EFFORTS or not known:
        return None
    asked = EFFORTS.index(effort)
    return min(known, key=lambda level: abs(EFFORTS.index(level) - asked))


Blame: TypeAlias = Literal["request", "context_window", "model", "key", "provider"]
"""Whose fault it is, and so who else may do better: `request`, nobody; `context_window`, a model with a larger one;
`model`, any other, for this one is gone; `key`, any other provider, for this one does not take our credentials;
`provider`, anybody, and the same one after a while."""

Reason: TypeAlias = Literal["connect", "first_token", "between_tokens", "total", "provider"]
"""Why no answer came, or not all of it: which wait was too long, or the provider's own fault. For logs and metrics."""


class ProviderError(Exception):
    """The model's provider failed. `code` is a row of the error table (`PROVIDER_ERROR`, `TIMEOUT`, `RATE_LIMIT`…).

    `message` is shown to the client: a sentence that names no host, key or internals; details go to the log.
    `retryable`: the same request may succeed later. `blame` left out: `provider` if it is, else `request`. `field` is
    the request's field that the model cannot take, as the client wrote it. `said` is the provider's own fault, for
    the log alone. `is_ill` False: it tells of this request, not of the model's health.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "PROVIDER_ERROR",
        retryable: bool,
        retry_after_s: float | None = None,
        blame: Blame | None = None,
        reason: Reason = "provider",
        field: str | None = None,
        said: Any = None,
        is_ill: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.blame: Blame = blame or ("provider" if retryable else "request")
        self.reason = reason
        self.field = field
        self.said = said
        self.is_ill = is_ill and self.blame not in ("request", "context_window")


class Provider(Protocol):
    """Who answers. One instance serves all generations of a process at once."""

    name: str
    """As printed in the completion event's `provider`."""

    def left_out(self, request: ModelRequest) -> tuple[str, ...]:
        """Fields of this request that the model will not be told of, because it does not take them."""
        ...

    def stream(self, request: ModelRequest) -> AsyncIterator[Piece]:
        """Yield deltas and tool uses in order, then exactly one `Finish`.

        Closing the iterator (`aclose`, or cancelling the task that reads it) closes the upstream call.
        Raises `ProviderError`; nothing else by intention.
        """
        ...

    async def aclose(self) -> None:
        """Release what the provider holds for the life of the process. May be called twice."""
        ...
