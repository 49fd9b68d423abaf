"""Every name a model answers to, with every shape of request, through the whole stack: it reaches the right provider,
where its SDK would ask, with a body that its own request types take whole."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.end_to_end.reference import COMPATIBLE, KEY, Ask, Reference, fault_of
from tests.fleet import ROOT, Fleet
from tests.protocol.test_catalogue import NAMES as TABLE
from tests.wire import call
from tests.workers.oracle import sdks
from tokenrelay.loadtest.fleet import free_port

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

SERVERS = """
[servers.ollama]
base_url = "BASE/compatible/v1"
[servers.vllm]
base_url = "BASE/compatible/v1/"
key_env = "VLLM_KEY"
[servers.nobody]
base_url = "BASE/compatible/v1"
key_env = "NOBODYS_KEY"
[[model]]
id = "qwen"
provider = "Ollama"
server = "ollama"
upstream = "qwen3:8b"
accepts = ["temperature", "top_p", "stop", "seed", "tools"]
[[model]]
id = "qwen-far"
provider = "vLLM"
server = "vllm"
upstream = "qwen3:8b"
accepts = ["temperature", "top_p", "stop", "seed", "tools"]
token_limit_field = "max_completion_tokens"
[[model]]
id = "qwen-locked"
provider = "Nobody"
server = "nobody"
upstream = "qwen3:8b"
"""
DIALECTS = {
    "OpenAI": "responses", "Anthropic": "anthropic", "Google": "gemini",
    "Ollama": "chat_completions", "vLLM": "chat_completions",
}  # fmt: skip
NAMES = [row for row in TABLE if row[1] in DIALECTS] + [
    ("gpt-9-nova", "OpenAI", "gpt-9-nova"),
    ("claude-opus-9", "Anthropic", "claude-opus-9"),
    ("gemini-9-pro", "Google", "gemini-9-pro"),
    ("qwen", "Ollama", "qwen3:8b"),
    ("qwen3:8b", "Ollama", "qwen3:8b"),
    ("qwen-far", "vLLM", "qwen3:8b"),
]
OWN = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip
ROUND: list[dict[str, Any]] = [
    {"role": "user", "content": "Oslo and Paris?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": f"call/{city}", "type": "function",
         "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
        for city in ("Oslo", "Paris")]},
    {"role": "tool", "tool_call_id": "call/Paris", "content": "21 °C"},
    {"role": "tool", "tool_call_id": "call/Oslo", "content": ""},
]  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"message": "hi"},
    "system": {"prompt": "hi", "system": "Be brief."},
    "sampling": {"message": "hi", "temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 99},
    "stop": {"message": "hi", "stop": ["END", "\n\n"]},
    "tools": {"message": "hi", "enable_tools": True},
    "own tool": {"message": "hi", "tools": ["calculator", OWN]},
    "tool round": {"messages": ROUND, "tools": [OWN]},
    "tool round, then talk": {
        "messages": [*ROUND, {"role": "assistant", "content": "Fine."}, ROUND[0]], "tools": [OWN],
    },
    "multi-turn": {"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"}, {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "and now?"}, {"role": "user", "content": "well?"},
    ]},
}  # fmt: skip
LEFT_OUT: dict[str, dict[str, list[str]]] = {
    "OpenAI": {"sampling": ["temperature", "top_p", "seed"], "stop": ["stop"]},
    "Anthropic": {"sampling": ["temperature", "top_p", "seed"]},
    "Google": {"sampling": ["temperature", "top_p"]},
}


def spellings(name: str) -> Iterator[str]:
    """In any case; but a provider's own id is what it is."""
    is_ours = name.lower() in {row[0].lower() for row in TABLE} | {"qwen", "qwen-far"}
    return itertools.cycle([name, name.upper(), name.title(), name.swapcase()] if is_ours else [name])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """An edge's address, and the port where all providers are to be."""
    for dialect in set(DIALECTS.values()):
        sdks.sdk(dialect)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    catalogue = tmp_path_factory.mktemp("reference") / "catalogue.toml"
    shipped = (ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8")
    catalogue.write_text(shipped + SERVERS.replace("BASE", base), encoding="utf-8")
    env = {
        "TOKENRELAY_CATALOGUE": str(catalogue),
        "TOKENRELAY_OPENAI_BASE_URL": f"{base}/v1",
        "TOKENRELAY_ANTHROPIC_BASE_URL": base,
        "TOKENRELAY_GEMINI_BASE_URL": base,
        **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "VLLM_KEY"), KEY),
    }
    with Fleet(edges=1, workers=1, env=env) as fleet:
        yield fleet.urls[0], port


def play(stack: tuple[str, int], scene: Callable[[str, Reference], Awaitable[None]]) -> None:
    async def whole() -> None:
        providers = Reference()
        await providers.open(stack[1])
        try:
            await scene(stack[0], providers)
        finally:
            await providers.close()

    asyncio.run(whole())


async def asks(url: str, name: str, shape: str) -> dict[str, Any]:
    status, answer, _ = await call("POST", f"{url}/api/chat", {"model": name, **SHAPES[shape]})
    assert status == 200, (name, shape, answer)
    return dict(answer)


async def every_name(url: str, providers: Reference) -> None:
    for name, provider, upstream in NAMES:
        for shape, spelled in zip(SHAPES, spellings(name), strict=False):
            providers.asked.clear()
            answer = await asks(url, spelled, shape)
            assert not providers.faults
            assert {(ask.dialect, ask.model) for ask in providers.asked} == {(DIALECTS[provider], upstream)}, spelled
            assert (answer["response"], answer["provider"], answer["model"]) == ("Hello!", provider, spelled)
            assert answer.get("left_out", []) == LEFT_OUT.get(provider, {}).get(shape, [])
            runs_a_tool = shape in ("tools", "own tool")
            assert [ask.results for ask in providers.asked] == ([0, 1] if runs_a_tool else [2 * ("round" in shape)])
            assert [use["tool_result"] for use in answer["tool_calls"]] == ["42"] * runs_a_tool
    providers.asked.clear()
    _, far, _ = await call("POST", f"{url}/api/chat", {"message": "hi", "model": "QWEN3:8b", "provider": "vllm"})
    assert far["provider"] == "vLLM"
    for name in ("neuroswitch", "NeuroSwitch/Mix", "NEUROSWITCH"):
        for shape in SHAPES:
            providers.asked.clear()
            answer = await asks(url, name, shape)
            assert {ask.dialect for ask in providers.asked} == {DIALECTS[answer["provider"]]}
            assert not providers.faults
    _, listing, _ = await call("GET", f"{url}/api/models")
    rows = {row["id"]: row for row in listing["models"]}
    assert rows["qwen"]["available"]
    assert rows["qwen-locked"]["unavailable_because"] == "NOBODYS_KEY is not set"


def test_every_name_reaches_its_provider_with_a_body_that_is_taken(stack: tuple[str, int]) -> None:
    play(stack, every_name)


# -- where, and with which headers -------------------------------------------------------------------------------------

ASKED = {"OpenAI": "openai", "Anthropic": "claude", "Google": "gemini", "vLLM": "qwen-far"}


def test_the_address_and_the_headers_are_those_of_the_providers_sdk(
    stack: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)

    async def scene(url: str, providers: Reference) -> None:
        for provider, name in ASKED.items():
            await asks(url, name, "plain")
            ours = providers.asked[-1]
            root = providers.root + (COMPATIBLE if ours.dialect == "chat_completions" else "")
            sdk = sdks.client(ours.dialect, root)
            try:
                await sdks.read(ours.dialect, sdk)
            finally:
                await sdks.close(ours.dialect, sdk)
            theirs = providers.asked[-1]
            assert theirs is not ours
            assert ours.headers == theirs.headers, provider
            assert ours.address == theirs.address

    play(stack, scene)


# -- the judge itself --------------------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any]]] = [
    ("responses", {"model": "m", "input": "hi", "stream": True, "max_tokens": 5}),
    ("responses", {"model": "m", "input": "hi", "stream": True, "stop": ["x"]}),
    ("responses", {"model": "m", "input": "hi"}),
    ("anthropic", {"model": "m", "max_tokens": 5, "stream": True, "messages": [{"role": "system", "content": 5}]}),
    ("anthropic", {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}),
    ("anthropic", {"model": "m", "max_tokens": 5, "stream": True, "messages": [], "seed": 1}),
    ("chat_completions", {"model": "m", "stream": True, "messages": [{"role": "tool", "content": "x"}]}),
    ("chat_completions", {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}], "top_k": 1}),
    ("gemini", {"contents": [{"role": "user", "parts": [{"texts": "hi"}]}]}),
    ("gemini", {"contents": [], "generationConfig": {"max_tokens": 4}}),
    ("gemini", {"contents": [], "system": "hi"}),
    ("chat_completions", {"model": "m", "stream": True, "messages": [
        {"role": "tool", "tool_call_id": "c", "content": "x"}]}),
    ("responses", {"model": "m", "stream": True, "input": [
        {"type": "function_call_output", "call_id": "c", "output": "x"}]}),
    ("anthropic", {"model": "m", "max_tokens": 5, "stream": True, "messages": [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]}]}),
    ("gemini", {"contents": [{"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}]}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "body"), BAD)
def test_the_judge_refuses_what_is_not_theirs(dialect: str, body: dict[str, Any]) -> None:
    sdks.sdk(dialect)
    assert fault_of(Ask(dialect, "/?alt=sse", {}, body))
