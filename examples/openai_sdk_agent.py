"""Any server of the Chat Completions dialect, through the openai SDK. `litellm.acompletion(…, stream=True)` in the same
place works alike.

pip install 'tokenrelay[openai]'
"""

import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI

from tokenrelay.agent import Ask, openai_chunks


async def answer(ask: Ask) -> AsyncIterator[Any]:
    async with AsyncOpenAI() as client:  # OPENAI_BASE_URL and OPENAI_API_KEY say where and as whom
        messages: Any = [dict(message) for message in ask.messages]
        chunks = await client.chat.completions.create(
            model=os.environ.get("EXAMPLE_MODEL", "gpt-5"),
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            yield chunk


handler = openai_chunks(answer)
