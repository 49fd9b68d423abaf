"""What a provider is: given one round of a conversation it yields what the model writes. Knows no Redis and no
client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from tokenrelay.workers.conversation import ModelRequest, Piece


class Accepts(msgspec.Struct, frozen=True):
    """Which parts of a `ModelRequest` a model takes. What it does not take is left out of what is sent.

    `token_limit_field` is what it calls `max_tokens`; None: what its dialect calls it. A model that `thinks` gets its
    sealed thoughts back with the results of its tools, where its dialect has to ask for them (Responses).
    """

    temperature: bool = True
    top_p: bool = True
    stop: bool = True
    seed: bool = True
    tools: bool = True
    token_limit_field: str | None = None
    thinks: bool = False


OPTIONAL: Final = ("temperature", "top_p", "stop", "seed", "tools")
"""The parts that may be left out: fields of `ModelRequest`, and of `Accepts`."""


def left_out(request: ModelRequest, accepts: Accepts) -> tuple[str, ...]:
    """The parts of `request` that a model which takes no more than `accepts` is not told, by their names."""
    # An empty list of tools or stops asks for nothing; a temperature or a seed of 0 does.
    return tuple(
        part for part in OPTIONAL if not getattr(accepts, part) and getattr(request, part) not in (None, (), [])
    )


def fitted(request: ModelRequest, accepts: Accepts) -> ModelRequest:
    """The request without those parts."""
    nothing = {part: () if part in ("stop", "tools") else None for part in left_out(request, accepts)}
    return msgspec.structs.replace(request, **nothing)


Blame: TypeAlias = Literal["request", "context_window", "model", "key", "provider"]
"""Whose fault it is, and so who else may do better: `request`, nobody; `context_window`, a model with a larger one;
`model`, any other, for this one is gone; `key`, any other provider, for this one does not take our credentials;
`provider`, anybody, and the same one after a while."""

Reason: TypeAlias = Literal["connect", "first_token", "between_tokens", "total", "provider"]
"""Why no answer came, or not all of it: which patience ran out, or the maker's own fault. For logs and metrics."""


class ProviderError(Exception):
    """The model's maker failed. `code` is a row of the error table (`PROVIDER_ERROR`, `TIMEOUT`, `RATE_LIMIT`…).

    `message` is shown to the client: a sentence that names no host, key or internals; details go to the log.
    `retryable`: the same request may succeed later. `blame` left out: `provider` if it is, else `request`.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.blame: Blame = blame or ("provider" if retryable else "request")
        self.reason = reason


class Provider(Protocol):
    """A maker of answers. One instance serves all generations of a process at once."""

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
