"""Nothing that was planted in a local variable, an exception's text or a command is printed, in either format."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tokenrelay.protocol.runtime import logs

ROOT = Path(__file__).resolve().parents[2]
MARK = "pl4nt3d"

PROGRAM = f"""
import asyncio, json, logging, sys
import msgspec, pydantic, structlog
from redis.exceptions import ResponseError
from tokenrelay.protocol.runtime import logs

logs.configure("INFO", sys.argv[1])
log = structlog.get_logger()
prompt = "{MARK}"

def fail(error):
    secret = prompt
    try:
        raise ValueError("inner " + secret)
    except ValueError as inner:
        raise error from inner

class M(pydantic.BaseModel):
    a: int

try:
    M.model_validate({{"a": prompt}})
except pydantic.ValidationError as error:
    invalid = error
for error in (
    ValueError(prompt), KeyError(prompt), invalid, msgspec.ValidationError(prompt),
    OSError(5, "Input/output error", prompt),
    ResponseError("Command # 1 (SET tr:secret " + prompt + ") of pipeline caused error: OOM no memory"),
    ResponseError("unknown command 'X', with args beginning with: " + prompt),
    ExceptionGroup("g", [ValueError(prompt)]),
):
    try:
        fail(error)
    except Exception:
        log.exception("it_failed", request_id="r")
        logging.getLogger("uvicorn.error").exception("in the application")
for _ in range(100):
    logging.getLogger("mcp.client.stdio").error("cannot parse %s", prompt, exc_info=ValueError(prompt))

async def lost():
    async def task():
        fail(ValueError(prompt))
    made = asyncio.create_task(task())
    await asyncio.sleep(0)
    del made

asyncio.run(lost())
fail(ValueError(prompt))
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_was_being_worked_on_is_not_printed(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert MARK not in said
    assert said.count("it_failed") == 8
    assert "in fail" in said  # the frames are there
    assert "OOM no memory" in said  # and Redis's own words
    assert said.count("cannot parse") == logs.FOREIGN_A_MINUTE


def test_a_cause_stands_before_what_came_of_it() -> None:
    try:
        try:
            raise TypeError("first")
        except TypeError as error:
            raise ResponseError("BUSY a script is running") from error
    except ResponseError as error:
        text = logs.exception_text((type(error), error, error.__traceback__))
    assert text.index("TypeError: first") < text.index("ResponseError: BUSY a script is running")


def test_the_words_of_a_library_are_one_line_of_bounded_length() -> None:
    record = logging.LogRecord("asyncio", logging.ERROR, "f", 1, "a%s\nb", ("x" * 1000,), None)
    handler = logging.StreamHandler()
    handler.setFormatter(logs._Formatter("%(message)s"))
    assert handler.format(record) == ("a" + "x" * 1000)[: logs.MAX_MESSAGE]
