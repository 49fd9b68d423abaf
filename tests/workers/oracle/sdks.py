"""The providers' own SDKs as readers: each reads a stream from a server and tells what it understood. Never a guess of
ours: where an SDK adds up an answer itself, its sum is taken."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Mapping
from typing import Any, Final

from tests.needs import require
from tests.workers.oracle.cases import Answer, Call

PROMPT: Final = [{"role": "user", "content": "hi"}]
MODULES: Final[Mapping[str, str]] = {
    "chat_completions": "openai",
    "responses": "openai",
    "anthropic": "anthropic",
    "gemini": "google.genai",
}
PACKAGES: Final[Mapping[str, str]] = {"openai": "openai", "anthropic": "anthropic", "google.genai": "google-genai"}


def sdk(dialect: str) -> Any:
    """The SDK of that dialect's provider; skips the test when it is not installed."""
    name = MODULES[dialect]
    require(_is_there(name), f"package {PACKAGES[name]}")
    return quietly(name)


def quietly(name: str) -> Any:
    """Import it; what it warns of while it is imported is its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def client(dialect: str, root: str) -> Any:
    """Speaks to the server at `root`. Close it with `close`."""
    module = sdk(dialect)
    if dialect == "gemini":
        return module.Client(api_key="k-1", http_options={"base_url": root}).aio
    if dialect == "anthropic":
        return module.AsyncAnthropic(api_key="k-1", base_url=root, max_retries=0)
    return module.AsyncOpenAI(api_key="k-1", base_url=f"{root}/v1", max_retries=0)


async def close(dialect: str, sdk_client: Any) -> None:
    await (sdk_client.aclose() if dialect == "gemini" else sdk_client.close())


class Broken(Exception):
    """The SDK raised, or its stream ended before an answer did; with the text until then."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


async def read(dialect: str, sdk_client: Any) -> Answer:
    """Raises Broken."""
    return await {
        "chat_completions": _chat_completions,
        "responses": _responses,
        "anthropic": _anthropic,
        "gemini": _gemini,
    }[dialect](sdk_client)


async def _chat_completions(sdk_client: Any) -> Answer:
    module = quietly("openai.lib.streaming.chat")
    state = module.ChatCompletionStreamState()
    texts: list[str] = []
    usage: Any = None
    try:
        stream = await sdk_client.chat.completions.create(model="m", messages=PROMPT, stream=True)
        async for chunk in stream:
            state.handle_chunk(chunk)
            usage = chunk.usage or usage
            texts += [choice.delta.content or choice.delta.refusal or "" for choice in chunk.choices]
        answer = state.current_completion_snapshot
    except Exception:  # whatever it raises, it is no answer
        raise Broken("".join(texts)) from None
    choice = answer.choices[0]
    if choice.finish_reason is None:
        raise Broken("".join(texts))
    message = choice.message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    reason = "content_filter" if message.refusal else choice.finish_reason
    counted = (0, 0) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return _answer((message.content or "") + (message.refusal or ""), calls, counted, reason, answer.model)


async def _responses(sdk_client: Any) -> Answer:
    texts: list[str] = []
    answer: Any = None
    try:
        stream = await sdk_client.responses.create(model="m", input="hi", stream=True)
        async for event in stream:
            if event.type in ("response.output_text.delta", "response.refusal.delta"):
                texts.append(event.delta)
            elif event.type in ("response.completed", "response.incomplete"):
                answer = event.response
    except Exception:
        raise Broken("".join(texts)) from None
    if answer is None:
        raise Broken("".join(texts))
    parts = [part for item in answer.output if item.type == "message" for part in item.content]
    made = [item for item in answer.output if item.type == "function_call" and item.status == "completed"]
    calls = [(item.name, json.loads(item.arguments)) for item in made]
    details = answer.incomplete_details
    reason = "tool_calls" if calls else "stop"
    if answer.status == "incomplete":
        reason = "length" if details.reason == "max_output_tokens" else "content_filter"
    elif any(part.type == "refusal" for part in parts):
        reason = "content_filter"
    text = "".join(part.text if part.type == "output_text" else part.refusal for part in parts)
    return _answer(text, calls, (answer.usage.input_tokens, answer.usage.output_tokens), reason, answer.model)


async def _anthropic(sdk_client: Any) -> Answer:
    reasons = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }
    texts: list[str] = []
    is_over = False
    try:
        async with sdk_client.messages.stream(model="m", max_tokens=9, messages=PROMPT) as stream:
            async for event in stream:
                if event.type == "text":
                    texts.append(event.text)
                is_over = is_over or event.type == "message_stop"
            answer = stream.current_message_snapshot
    except Exception:
        raise Broken("".join(texts)) from None
    if not is_over:
        raise Broken("".join(texts))
    usage = answer.usage
    read_tokens = usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    reason = reasons[answer.stop_reason]
    calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    text = "".join(block.text for block in answer.content if block.type == "text")
    # The SDK shows a call that was cut at the limit as far as it came; nobody is to run that.
    calls = calls if reason == "tool_calls" else []
    return _answer(text, calls, (read_tokens, usage.output_tokens), reason, answer.model)


async def _gemini(sdk_client: Any) -> Answer:
    reasons = {"STOP": "stop", "MAX_TOKENS": "length"}
    reasons |= dict.fromkeys(("SAFETY", "RECITATION", "PROHIBITED_CONTENT"), "content_filter")
    texts: list[str] = []
    calls: list[tuple[str, dict[str, Any]]] = []
    reason = model = ""
    usage: Any = None
    try:
        stream = await sdk_client.models.generate_content_stream(model="m", contents="hi")
        async for chunk in stream:
            usage = chunk.usage_metadata or usage
            model = chunk.model_version or model
            if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
                reason = "content_filter"
            for candidate in chunk.candidates or ():
                for part in (candidate.content.parts if candidate.content else None) or ():
                    if part.text and not part.thought:
                        texts.append(part.text)
                    if part.function_call:
                        calls.append((part.function_call.name, part.function_call.args or {}))
                if candidate.finish_reason is not None:
                    reason = reasons[candidate.finish_reason.value]
    except Exception:
        raise Broken("".join(texts)) from None
    if not reason:
        raise Broken("".join(texts))
    reason = "tool_calls" if calls and reason == "stop" else reason
    read_tokens = usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0)
    written = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    return _answer("".join(texts), calls, (read_tokens, written), reason, model)


def _answer(
    text: str, calls: list[tuple[str, dict[str, Any]]], usage: tuple[int, int], reason: str, model: str
) -> Answer:
    return Answer(text, tuple(Call(name, arguments) for name, arguments in calls), *usage, reason, model)
