"""What an edge makes of a request before anything is queued: the name it goes on under, and who may take it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fleet import ROOT
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.store.worker_registry import Offer
from tokenrelay.protocol.wire.request import ChatRequest, from_object
from tokenrelay.server.store.models import Models

ROWS = catalogue.parse((ROOT / "protocol" / "models" / "catalogue.toml").read_text(encoding="utf-8"))
AUTO = {row.id for row in ROWS.models if row.auto}
NAMED = next(row for row in ROWS.models if row.auto)
NO_REDIS: Any = None


def offered(*rows: str) -> Models:
    """One worker, which offers these."""
    models = Models(ROWS, NO_REDIS)
    sources = tuple({row.source for row in ROWS.models if row.id in rows})
    models._offers = [Offer(2**53, sources, {}, 0, 100, rows)]
    return models


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


@pytest.mark.parametrize("model", [None, "neuroswitch", NAMED.id])
def test_where_only_rows_that_nobody_chooses_for_the_caller_can_answer_the_refusal_names_one(model: str | None) -> None:
    with pytest.raises(TokenrelayError, match=r"name one that can: scripted$") as refused:
        offered("scripted").check(asked(model=model))
    assert (refused.value.code, refused.value.fields["field"]) == ("SERVICE_UNAVAILABLE", "model")
    assert offered("scripted", NAMED.id).check(asked(model=model)).model == (model or "neuroswitch")


OFFER = Offer(2**53, (NAMED.source,), {}, 0, 100, (NAMED.id,))
DRAINS = Offer(2**53, (), {}, 1, 100, ())


@pytest.mark.parametrize("left", [DRAINS, Offer(2**53, ("scripted",), {}, 0, 100, ("scripted",))])
def test_a_model_offered_a_moment_ago_is_queued_and_one_that_never_was_is_refused(left: Offer) -> None:
    now = 1000.0
    models = Models(ROWS, NO_REDIS, 60, clock=lambda: now)
    models._learn([OFFER])
    now += 30
    models._learn([OFFER])
    models._learn([left])
    other = next(row.id for row in ROWS.models if row.auto and row.id != NAMED.id)
    for seconds in (0, 29, 30.9):
        now = 1030.0 + seconds
        models._learn([left])  # what is read meanwhile does not lengthen it
        assert models.check(asked(model=NAMED.id)).model == NAMED.id
        with pytest.raises(TokenrelayError, match="no worker can answer now"):
            models.check(asked(model=other))
    assert not next(row for row in models.listing() if row["id"] == NAMED.id)["available"]
    now = 1030.0 + 60
    with pytest.raises(TokenrelayError, match="no worker can answer now"):
        models.check(asked(model=NAMED.id))


def test_without_a_memory_it_is_refused_at_once() -> None:
    models = Models(ROWS, NO_REDIS, 0)
    models._learn([OFFER])
    models._learn([DRAINS])
    with pytest.raises(TokenrelayError, match="no worker can answer now"):
        models.check(asked(model=NAMED.id))


def test_what_cannot_read_a_part_of_the_request_is_not_named() -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
    body = from_object({"messages": [{"role": "user", "content": picture}]})
    with pytest.raises(TokenrelayError, match=r"no worker can answer now \([^;]*(; [^;]*)*\)$"):
        offered("scripted").check(body)


def test_one_that_reads_files_by_their_address_is_named() -> None:
    """Nobody says so in a row's `accepts`: it follows from `files` and the dialect."""
    part = {"type": "file", "file": {"file_url": "https://example.com/a.pdf"}}
    one, other = [row.id for row in ROWS.models if row.takes("file_url")][:2]
    body = from_object({"model": one, "messages": [{"role": "user", "content": [part]}]})
    with pytest.raises(TokenrelayError, match=rf"name one that can: {other}$"):
        offered(other).check(body)
