"""The served OpenAPI document against the running server: requests made from it, answers held to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation.modes import GenerationMode

from tests.fleet import Fleet
from tokenrelay.protocol.wire import openapi

ALICE = {"Authorization": "Bearer alice-secret"}
SHORT = "scripted?tokens=2&interval_ms=0"
TIMEOUT_S = 20

OPERATIONS = [
    (path, verb.upper()) for path, item in openapi.DOCUMENT["paths"].items() for verb in item if verb != "parameters"
]


def takes_something(path: str, verb: str) -> bool:
    """What takes nothing cannot be given anything wrong."""
    item = openapi.DOCUMENT["paths"][path]
    return bool(item.get("parameters") or {"parameters", "requestBody"} & set(item[verb.lower()]))


CASES = [
    pytest.param(path, verb, mode, id=f"{verb} {path} {mode.value}")
    for path, verb in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or takes_something(path, verb)
]
# Enough to find what each was built to find, few enough for half a minute. The same on every run.
steady = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Fleet]:
    with Fleet(edges=1, workers=1, env={"TOKENRELAY_API_KEYS": "alice:alice-secret"}) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def session(guarded: Fleet) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers.update(ALICE)
        yield session


@pytest.fixture(scope="module")
def document(guarded: Fleet, session: requests.Session) -> Any:
    served = session.get(f"{guarded.urls[0]}/openapi.json", timeout=TIMEOUT_S).json()
    assert served == openapi.DOCUMENT
    schema = schemathesis.openapi.from_dict(served)
    schema.config.update(base_url=guarded.urls[0])
    return schema


@pytest.fixture(scope="module")
def ended(guarded: Fleet, session: requests.Session) -> str:
    """A stream to be asked for: of ids made up no answer is anything but 404."""
    answer = session.post(f"{guarded.urls[0]}/api/chat", json={"message": "a", "model": SHORT}, timeout=TIMEOUT_S)
    return cast(str, answer.json()["stream_id"])


load_all_checks()
# Not meant: some operations need no key, and a key that is sent along is never "ignored"; whether data that break the
# schema are refused is the one thing a lenient reader and the document may see differently (unknown query parameters).
# And without a provider's key 503 is the right answer; 500 never is.
UNMEANT = {
    "not_a_server_error",
    "ignored_auth",
    "unsupported_method",
    "positive_data_acceptance",
    "missing_required_header",
}
MEANT = [check for name, check in zip(CHECKS.get_all_names(), CHECKS.get_all(), strict=True) if name not in UNMEANT]


OF_BODIES = CHECKS.get_one("response_schema_conformance")
"""Takes the schema of a whole event stream (OpenAPI 3.1 has no other) for that of one event."""


@pytest.mark.parametrize(("path", "verb", "mode"), CASES)
def test_the_server_is_what_its_document_says(
    document: Any, session: requests.Session, ended: str, path: str, verb: str, mode: GenerationMode
) -> None:
    operation = document[path][verb]
    count = 0

    @steady
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        nonlocal count
        count += 1
        if count % 2 and mode is GenerationMode.POSITIVE:
            if "stream_id" in (case.path_parameters or {}):
                case.path_parameters["stream_id"] = ended
            if isinstance(case.body, dict) and path == "/api/chat":
                case.body["model"] = SHORT
                case.body.pop("provider", None)
        answer = case.call(session=session, timeout=TIMEOUT_S)
        is_events = answer.headers.get("content-type", [""])[0].startswith("text/event-stream")
        case.validate_response(answer, checks=[check for check in MEANT if not (is_events and check is OF_BODIES)])
        assert answer.status_code != 500

    holds()
