"""What a test needs and a machine may lack: a skip that names it, or a failure where everything must be there."""

from __future__ import annotations

import os

import pytest


def require(is_there: object, what: str) -> None:
    """Skip the test when `what` is missing here; fail it when REQUIRE_ALL=1 says that nothing may be.

    >>> require(shutil.which("node"), "node on PATH")
    """
    if is_there:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"REQUIRE_ALL=1, and this machine has no {what}", pytrace=False)
    pytest.skip(f"this machine has no {what}")
