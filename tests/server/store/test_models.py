"""What an edge makes of a request before anything is queued: the name it goes on under, and who may take it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fleet import ROOT
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.wire.request import ChatRequest, from_object
from tokenrelay.server.store.models import Models

ROWS = catalogue.parse((ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8"))
AUTO = {row.id for row in ROWS.models if row.auto}
NAMED = next(row for row in ROWS.models if row.auto)
NO_REDIS: Any = None


def asked(**fields: Any) -> ChatRequest:
    return from_object({"message": "hi", **fields})


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (asked(), AUTO),
        (asked(model="neuroswitch"), AUTO),
        (asked(model=NAMED.id), {NAMED.id}),
        (asked(model=NAMED.upstream), {NAMED.id}),
        (asked(model="scripted?tokens=3"), {"scripted"}),
        (asked(preferences={"avoid": [NAMED.id]}), AUTO - {NAMED.id}),
        (asked(preferences={"avoid": sorted(AUTO)}), AUTO),  # whoever takes it says that nobody is left
        (asked(model=NAMED.id, preferences={"avoid": [NAMED.id]}), {NAMED.id}),
    ],
)  # fmt: skip
def test_a_request_needs_one_of_the_rows_that_may_answer_it(request_: ChatRequest, needs: set[str]) -> None:
    assert set(json.loads(Models(ROWS, NO_REDIS).check(request_).needs)) == needs
