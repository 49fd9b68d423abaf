"""What we ask, judged by the providers' own SDKs: every field is one of theirs, of their type, at their address.

Two judges each: the SDK's types take our body and lose nothing of it, and the SDK itself, asked for the same, sends the
same bytes' worth of JSON to the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import aiohttp
import pydantic
import pytest

from tests.workers.oracle import sdks
from tests.workers.oracle.cases import DIALECTS
from tests.workers.oracle.test_oracle import ours
from tests.workers.upstream import Upstream, says
from tokenrelay.workers.conversation import Echo, Message, ModelRequest, ToolSpec, ToolUse
from tokenrelay.workers.providers.anthropic import GO_ON
from tokenrelay.workers.providers.base import Accepts, ProviderError
from tokenrelay.workers.providers.gemini import UNSIGNED

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

SCHEMA: Final = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Final = [
    ToolSpec("weather", "what it will be like", SCHEMA),
    ToolSpec("clock.now", "the time", {"type": "object"}),
]
ECHOES: Final[dict[str, Any]] = {
    "chat_completions": None,
    "responses": [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAB"},
        {"type": "message", "role": "assistant", "phase": "commentary", "content": "Let me see."},
        {"type": "function_call", "call_id": "c0"},
        {"type": "function_call", "call_id": "c1"},
    ],
    "anthropic": [
        {"type": "thinking", "thinking": "hm", "signature": "EqQ="},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c0"},
        {"type": "tool_use", "id": "c1"},
    ],
    "gemini": [
        {"text": "Let me see."},
        {"call": "c0", "id": "c0", "thoughtSignature": "c2ln"},
        {"call": "c1", "id": "c1"},
    ],
}
CALLS: Final = (ToolUse("c0", "weather", {"city": "Zürich", "days": [1, 2]}), ToolUse("c1", "clock.now", {}))


def turn(dialect: str, text: str = "Let me see.") -> Message:
    """What was answered, with the echo of it."""
    echo = Echo(dialect, "m-1", ECHOES[dialect]) if ECHOES[dialect] else None
    return Message("assistant", text, CALLS, echo=echo)


def requests(dialect: str) -> Iterator[tuple[str, ModelRequest]]:
    hi = Message("user", "hi")
    yield "bare", ModelRequest("m-1", [hi])
    yield "settings", ModelRequest("m-1", [hi], 99, 0.0, 0.5, ("\n\n", "END"), 0)
    yield "system", ModelRequest("m-1", [Message("system", "Be brief."), hi, Message("assistant", "hello"), hi])
    yield (
        "two turns of one side",
        ModelRequest("m-1", [hi, hi, Message("assistant", "a"), Message("assistant", "b"), hi]),
    )
    yield "it spoke last", ModelRequest("m-1", [hi, Message("assistant", "Once upon")])
    yield "tools", ModelRequest("m-1", [hi], tools=TOOLS)
    results = [Message("tool", "sunny ☀", tool_call_id="c0"), Message("tool", "", tool_call_id="c1")]
    rounds = [hi, turn(dialect), *results]
    yield "results", ModelRequest("m-1", rounds, tools=TOOLS)
    silent = [hi, Message("assistant", "", CALLS), *results]
    yield "two rounds", ModelRequest("m-1", [*silent, *rounds[1:], Message("user", "thanks")], tools=TOOLS)
    foreign = tuple(ToolUse(f"x.{use.call_id}", use.name, use.arguments) for use in CALLS)
    others = [Message("tool", "ok", tool_call_id=f"x.c{number}") for number in range(2)]
    yield "another provider's calls", ModelRequest("m-1", [hi, Message("assistant", "", foreign), *others], tools=TOOLS)


ROWS: Final = [(dialect, name, request) for dialect in DIALECTS for name, request in requests(dialect)]
IDS: Final = [f"{dialect}-{name}" for dialect, name, _ in ROWS]
NO: Final = says(b"HTTP/1.1 418 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", close=True)


def asked(dialect: str, request: ModelRequest, accepts: Accepts | None = None) -> tuple[str, dict[str, Any]]:
    """What our provider sends: (path, body)."""

    async def run() -> tuple[str, dict[str, Any]]:
        async with Upstream(NO) as upstream, aiohttp.ClientSession() as session:
            provider = ours(dialect, upstream.root, session, accepts)
            with pytest.raises(ProviderError):
                async for _ in provider.stream(request):
                    pass
            line, _, body = upstream.requests[0]
            return line.split(" ")[1], json.loads(body)

    return asyncio.run(run())


def asked_by_sdk(dialect: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What the provider's SDK sends when it is asked for the same."""

    async def run() -> tuple[str, dict[str, Any]]:
        async with Upstream(NO) as upstream:
            reader = sdks.client(dialect, upstream.root)
            try:
                await _ask(dialect, reader, body)
            except Exception as error:  # a refusal is all the server has
                assert upstream.requests, error  # noqa: PT017 - it may not fail before it asks
            finally:
                await sdks.close(dialect, reader)
            line, _, sent = upstream.requests[0]
            return line.split(" ")[1], _plain(json.loads(sent))

    return asyncio.run(run())


def _plain(sent: dict[str, Any]) -> dict[str, Any]:
    """Google's SDK sends settings that are none, and one name as its proto has it; the JSON mapping takes both."""
    if not sent.get("generationConfig", True):
        del sent["generationConfig"]
    for function in (one for tool in sent.get("tools", ()) for one in tool.get("functionDeclarations", ())):
        if "parameters_json_schema" in function:
            function["parametersJsonSchema"] = function.pop("parameters_json_schema")
    return sent


async def _ask(dialect: str, reader: Any, body: dict[str, Any]) -> None:
    if dialect == "gemini":
        types = sdks.quietly("google.genai.types")
        settings = dict(body.get("generationConfig", {}))
        settings |= {name: body[name] for name in ("systemInstruction", "tools") if name in body}
        contents = [types.Content.model_validate(turn) for turn in body["contents"]]
        config = types.GenerateContentConfig.model_validate(settings)
        async for _ in await reader.models.generate_content_stream(model="m-1", contents=contents, config=config):
            pass
    elif dialect == "anthropic":
        await reader.messages.create(**body)
    elif dialect == "responses":
        await reader.responses.create(**body)
    else:
        await reader.chat.completions.create(**body)


def judged(dialect: str, body: dict[str, Any]) -> Any:
    """The body as the SDK's own types keep it: a field they do not know is lost, one of a wrong type refused."""
    if dialect == "gemini":
        types = sdks.quietly("google.genai.types")
        kept = {"contents": [types.Content.model_validate(turn) for turn in body["contents"]]}
        if "systemInstruction" in body:
            kept["systemInstruction"] = types.Content.model_validate(body["systemInstruction"])
        if "tools" in body:
            kept["tools"] = [types.Tool.model_validate(tool) for tool in body["tools"]]
        if "generationConfig" in body:
            kept["generationConfig"] = types.GenerationConfig.model_validate(body["generationConfig"])
        return pydantic.TypeAdapter(dict[str, Any]).dump_python(kept, mode="json", by_alias=True, exclude_none=True)
    module, name = {
        "chat_completions": ("openai.types.chat.completion_create_params", "CompletionCreateParamsStreaming"),
        "responses": ("openai.types.responses.response_create_params", "ResponseCreateParamsStreaming"),
        "anthropic": ("anthropic.types.message_create_params", "MessageCreateParamsStreaming"),
    }[dialect]
    return _whole(_adapter(module, name).validate_python(body))


@cache
def _adapter(module: str, name: str) -> pydantic.TypeAdapter[Any]:
    """Half a second's work each; and it has to live while what it gave is read."""
    return pydantic.TypeAdapter(getattr(sdks.quietly(module), name))


def _whole(value: Any) -> Any:
    """An Iterable field is checked as it is read."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value if isinstance(value, (str, int, float, type(None))) else [_whole(item) for item in value]


@pytest.mark.parametrize(("dialect", "name", "request_"), ROWS, ids=IDS)
def test_the_providers_types_take_it(dialect: str, name: str, request_: ModelRequest) -> None:
    sdks.sdk(dialect)
    _, body = asked(dialect, request_)
    assert judged(dialect, body) == body


@pytest.mark.parametrize(("dialect", "name", "request_"), ROWS, ids=IDS)
def test_the_providers_sdk_asks_the_same(
    dialect: str, name: str, request_: ModelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdks.sdk(dialect)
    for variable in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    path, body = asked(dialect, request_)
    assert asked_by_sdk(dialect, body) == (path, body)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_field_that_is_not_theirs_is_found(dialect: str) -> None:
    """The judge itself."""
    sdks.sdk(dialect)
    _, body = asked(dialect, ModelRequest("m-1", [Message("user", "hi")], tools=TOOLS))
    tool = body["tools"][0]
    tool["stricktly"] = True
    with contextlib.suppress(pydantic.ValidationError):
        assert judged(dialect, body) != body


# -- rules that no type tells ------------------------------------------------------------------------------------------

NOTHING: Final = Accepts(temperature=False, top_p=False, stop=False, seed=False, tools=False)
EVERYTHING: Final = ModelRequest("m-1", [Message("user", "hi")], 9, 0.0, 1.0, ("x",), 0, TOOLS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_model_does_not_take_is_left_out(dialect: str) -> None:
    _, body = asked(dialect, EVERYTHING, NOTHING)
    _, bare = asked(dialect, ModelRequest("m-1", EVERYTHING.messages, 9))
    assert body == bare


def test_the_token_limit_goes_by_the_models_own_name() -> None:
    _, body = asked("chat_completions", EVERYTHING, Accepts(token_limit_field="max_completion_tokens"))
    assert (body["max_completion_tokens"], "max_tokens" in body) == (9, False)


def test_a_model_that_thinks_is_asked_for_its_sealed_thoughts() -> None:
    assert asked("responses", EVERYTHING, Accepts(thinks=True))[1]["include"] == ["reasoning.encrypted_content"]
    assert "include" not in asked("responses", EVERYTHING)[1]


def rounds(dialect: str) -> list[dict[str, Any]]:
    request = next(request for name, request in requests(dialect) if name == "results")
    body = asked(dialect, request)[1]
    turns = body.get("messages") or body.get("input") or body["contents"]
    assert isinstance(turns, list)
    return turns


def test_anthropic_thoughts_come_first_and_results_share_a_turn() -> None:
    _, assistant, user = rounds("anthropic")
    assert [block["type"] for block in assistant["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["type"] for block in user["content"]] == ["tool_result", "tool_result"]


def test_gemini_results_share_a_turn_and_the_first_call_is_signed() -> None:
    _, model, user = rounds("gemini")
    assert [part.get("thoughtSignature") for part in model["parts"]] == [None, "c2ln", None]
    assert [part["functionResponse"]["name"] for part in user["parts"]] == ["weather", "clock_now"]


def test_responses_thoughts_come_before_their_call() -> None:
    kinds = [item.get("type", item.get("role")) for item in rounds("responses")]
    outputs = ["function_call_output"] * 2
    assert kinds == ["user", "reasoning", "message", "function_call", "function_call", *outputs]


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_a_conversation_never_ends_on_the_models_own_turn(dialect: str) -> None:
    body = asked(dialect, ModelRequest("m-1", [Message("user", "hi"), Message("assistant", "Once upon")]))[1]
    turns = body.get("messages") or body["contents"]
    assert turns[-1]["role"] == "user"
    assert GO_ON in json.dumps(turns[-1])


def test_anthropic_is_always_told_a_limit_and_never_a_temperature_above_1() -> None:
    _, body = asked("anthropic", ModelRequest("m-1", [Message("user", "hi")], temperature=1.7), Accepts())
    assert body["max_tokens"] > 0
    assert body["temperature"] == 1.0


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_an_empty_turn_is_not_sent(dialect: str) -> None:
    hi = Message("user", "hi")
    sent = asked(dialect, ModelRequest("m-1", [Message("assistant", ""), hi, Message("assistant", ""), hi]))
    assert sent == asked(dialect, ModelRequest("m-1", [hi, hi]))


def test_gemini_signs_a_call_that_it_did_not_make() -> None:
    use, echo = ToolUse("c0", "f", {}), Echo("anthropic", "m-1", [{"type": "thinking"}])
    turns = [
        Message("user", "hi"),
        Message("assistant", "", (use,), echo=echo),
        Message("tool", "ok", tool_call_id="c0"),
    ]
    part = asked("gemini", ModelRequest("m-1", turns))[1]["contents"][1]["parts"][0]
    assert part == {"functionCall": {"id": "c0", "name": "f", "args": {}}, "thoughtSignature": UNSIGNED}


def test_gemini_is_not_told_an_id_that_it_did_not_give() -> None:
    use, echo = (
        ToolUse("call_0", "f", {}),
        Echo("gemini", "m-1", [{"call": "call_0", "id": None, "thoughtSignature": "c2ln"}]),
    )
    turns = [
        Message("user", "hi"),
        Message("assistant", "", (use,), echo=echo),
        Message("tool", "ok", tool_call_id="call_0"),
    ]
    assert "call_0" not in json.dumps(asked("gemini", ModelRequest("m-1", turns))[1])


def test_openai_keeps_no_copy_of_a_conversation() -> None:
    assert asked("responses", ModelRequest("m-1", [Message("user", "hi")]))[1]["store"] is False


@pytest.mark.parametrize(
    ("temperature", "top_p", "version"),
    [(None, None, "2026-10-21"), (0.5, None, "2023-06-01"), (None, 0.0, "2023-06-01")],
)
def test_anthropic_is_asked_in_a_version_that_knows_what_is_asked(
    temperature: float | None, top_p: float | None, version: str
) -> None:
    async def run(accepts: Accepts | None) -> str:
        async with Upstream(NO) as upstream, aiohttp.ClientSession() as session:
            with contextlib.suppress(ProviderError):
                request = ModelRequest("m-1", [Message("user", "hi")], temperature=temperature, top_p=top_p)
                async for _ in ours("anthropic", upstream.root, session, accepts).stream(request):
                    pass
            return upstream.requests[0][1]["anthropic-version"]

    assert asyncio.run(run(Accepts())) == version
    assert asyncio.run(run(None)) == "2026-10-21"  # newest models take none, so none is sent
