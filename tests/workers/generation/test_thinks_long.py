"""A model that thinks for longer than any wait, and writes tool arguments for as long, in each dialect: its answer is
whole, and that it thinks is told before it has thought on.

The example is 6 s of thinking, a piece every 0.25 s, where the first token may take 3 s and the next one 2 s: a
sixth of it here."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import aiohttp
import pytest

from tests.workers.chain import answers, in_turn
from tests.workers.generation.play import Stage, shortly
from tests.workers.oracle.cases import DIALECTS
from tests.workers.test_provider_contract import case_of, provider_of
from tests.workers.upstream import END, HEAD, Reader, Script, Upstream, Writer, chunked
from tokenrelay.protocol.models import catalogue
from tokenrelay.workers.providers.upstream import Timeouts
from tokenrelay.workers.settings import Settings

EVERY_S: Final = 0.04
THOUGHTS: Final = 24
ARGUMENTS: Final = 10
TIMEOUTS: Final = Timeouts(first_token_s=0.5, between_tokens_s=0.33)
SETTINGS: Final = Settings(
    first_token_timeout_s=0.5, between_tokens_timeout_s=0.33, first_token_budget_s=0.5, max_attempts=1
)

Json = dict[str, Any]


def row(dialect: str) -> catalogue.Catalogue:
    """No word of it that the model thinks, which would give it more time."""
    return catalogue.parse(
        f'[servers.acme]\nbase_url = "http://127.0.0.1:9/v1"\ndialect = "{dialect}"\n'
        '[[model]]\nid = "m"\nprovider = "Acme"\nserver = "acme"\nupstream = "m"\naccepts = ["tools"]\n'
    )


def anthropic(step: str) -> list[Json]:
    def block(index: int, kind: str, **fields: Any) -> Json:
        return {"type": f"content_block_{kind}", "index": index, **fields}

    return {
        "begin": [
            {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 7, "output_tokens": 1}}},
            block(0, "start", content_block={"type": "thinking", "thinking": "", "signature": ""}),
        ],
        "think": [block(0, "delta", delta={"type": "thinking_delta", "thinking": "hm "})],
        "write": [
            block(0, "stop"),
            block(1, "start", content_block={"type": "text", "text": ""}),
            block(1, "delta", delta={"type": "text_delta", "text": "So: "}),
            block(1, "stop"),
            block(2, "start", content_block={"type": "tool_use", "id": "t", "name": "calculator", "input": {}}),
            block(2, "delta", delta={"type": "input_json_delta", "partial_json": '{"expression":"6*7"'}),
        ],
        "argue": [block(2, "delta", delta={"type": "input_json_delta", "partial_json": " "})],
        "end": [
            block(2, "delta", delta={"type": "input_json_delta", "partial_json": "}"}),
            block(2, "stop"),
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ],
    }[step]


def chat_completions(step: str) -> list[Json]:
    def choice(finish: str | None = None, **delta: Any) -> Json:
        return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    def call(arguments: str, **fields: Any) -> Json:
        return choice(
            tool_calls=[{"index": 0, "function": {"arguments": arguments, **fields.pop("function", {})}, **fields}]
        )

    return {
        "begin": [choice(role="assistant", content="")],
        "think": [choice(reasoning_content="hm ")],
        "write": [
            choice(content="So: "),
            call('{"expression":"6*7"', id="t", type="function", function={"name": "calculator"}),
        ],
        "argue": [call(" ")],
        "end": [
            call("}"),
            choice("tool_calls"),
            {"model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}},
        ],
    }[step]


def responses(step: str) -> list[Json]:
    def said(kind: str, **fields: Any) -> Json:
        return {"type": f"response.{kind}", **fields}

    called = {"id": "fc", "type": "function_call", "call_id": "t", "name": "calculator"}
    usage = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
    whole = '{"expression":"6*7"' + " " * ARGUMENTS + "}"
    of_call, of_text = {"item_id": "fc", "output_index": 2}, {"item_id": "msg", "output_index": 1}
    return {
        "begin": [
            said("created", response={"model": "m", "status": "in_progress"}),
            said("output_item.added", output_index=0, item={"id": "rs", "type": "reasoning", "summary": []}),
        ],
        "think": [said("reasoning_summary_text.delta", delta="hm ", item_id="rs", output_index=0, summary_index=0)],
        "write": [
            said(
                "output_item.added",
                output_index=1,
                item={"id": "msg", "type": "message", "role": "assistant", "content": []},
            ),
            said("output_text.delta", delta="So: ", content_index=0, **of_text),
            said("output_item.added", output_index=2, item=called | {"status": "in_progress", "arguments": ""}),
            said("function_call_arguments.delta", delta='{"expression":"6*7"', **of_call),
        ],
        "argue": [said("function_call_arguments.delta", delta=" ", **of_call)],
        "end": [
            said("function_call_arguments.delta", delta="}", **of_call),
            said("output_item.done", output_index=2, item=called | {"status": "completed", "arguments": whole}),
            said("completed", response={"model": "m", "status": "completed", "usage": usage}),
        ],
    }[step]


def gemini(step: str) -> list[Json]:
    def part(finish: str | None = None, **fields: Any) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": [fields]}, "index": 0}
        usage = {"promptTokenCount": 7, "candidatesTokenCount": 9, "totalTokenCount": 16}
        return {
            "candidates": [candidate | ({"finishReason": finish} if finish else {})], "usageMetadata": usage,
            "modelVersion": "m",
        }  # fmt: skip

    def call(value: str, **fields: Any) -> Json:
        partial = {"partialArgs": [{"jsonPath": "$.expression", "stringValue": value}], "willContinue": True}
        return part(functionCall=partial | fields)

    return {
        "begin": [],
        "think": [part(text="hm ", thought=True)],
        "write": [part(text="So: "), call("6", name="calculator", id="t")],
        "argue": [call(" ")],
        "end": [call("*7", willContinue=False), part("STOP", text="")],
    }[step]


WORDS: Final = {
    "chat_completions": chat_completions, "responses": responses, "anthropic": anthropic, "gemini": gemini,
}  # fmt: skip


def wire(dialect: str, step: str) -> bytes:
    said = "".join(f"data: {json.dumps(event)}\n\n" for event in WORDS[dialect](step))
    return chunked(said.encode()) if said else b""


def thinks_long(dialect: str, stage: Stage) -> Script:
    async def script(_: Reader, writer: Writer) -> None:
        writer.write(HEAD + wire(dialect, "begin") + wire(dialect, "think"))
        async with asyncio.timeout(5):
            while len(stage.times) < 2:  # it thinks on when that is told
                await asyncio.sleep(0.01)
        for step, times in (("think", THOUGHTS), ("write", 1), ("argue", ARGUMENTS), ("end", 1)):
            for _time in range(times):
                await asyncio.sleep(EVERY_S)
                writer.write(wire(dialect, step))
        writer.write(END)

    return script


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_model_that_thinks_for_longer_than_any_wait_answers(dialect: str) -> None:
    async def scene() -> None:
        stage = Stage(SETTINGS)
        stage.resources.catalogue = row(dialect)
        script = in_turn(thinks_long(dialect, stage), answers(case_of(dialect, "text").body))
        async with Upstream(script) as upstream, aiohttp.ClientSession() as session:
            stage.resources.providers = {"acme": provider_of(dialect, upstream.root, session, TIMEOUTS)}
            events = await stage.told(stage.generation(model="m", enable_tools=True))
        assert shortly(events) == ["started", "thinking", "So: ", "calculator", "42", "Hel", "lo", "!", "stop"]

    asyncio.run(asyncio.wait_for(scene(), 20))
