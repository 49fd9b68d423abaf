"""A handler of one's own that writes as fast as it can, beside the scripted model; `handler.toml` is its row."""

import os
from collections.abc import AsyncIterator


async def parts(_: object) -> AsyncIterator[str]:
    for number in range(int(os.environ["BENCH_PARTS"])):
        yield f"w{number} "
