"""What a worker offers, as bytes and back."""

from __future__ import annotations

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.cases import pure
from tokenrelay.protocol.store import worker_registry
from tokenrelay.protocol.store.worker_registry import Offer

OFFER = Offer(1_705_314_600_123, ("local", "scripted"), {"openai": "no key"}, 3, 200, ("echo", "small"))


def test_an_offer_comes_back_as_it_was() -> None:
    assert worker_registry.unpack(worker_registry.pack(OFFER)) == OFFER


def test_it_is_a_map_as_the_wire_text_says() -> None:
    assert msgpack.unpackb(worker_registry.pack(OFFER)) == {
        "until_ms": 1_705_314_600_123, "dialects": ["local", "scripted"], "lacks": {"openai": "no key"}, "running": 3,
        "max_jobs": 200, "models": ["echo", "small"], "is_late": False,
    }  # fmt: skip


def test_a_field_nobody_knows_yet_is_passed_over() -> None:
    assert worker_registry.unpack(msgpack.packb({**msgspec.to_builtins(OFFER), "new": 1})) == OFFER


@pytest.mark.parametrize("name", ["until_ms", "dialects", "lacks", "running", "max_jobs"])
def test_without_one_of_its_fields_it_is_none(name: str) -> None:
    fields = msgspec.to_builtins(OFFER)
    del fields[name]
    assert worker_registry.unpack(msgpack.packb(fields)) is None


def test_a_row_is_offered_where_its_source_is_and_by_an_earlier_version_by_that_alone() -> None:
    assert OFFER.answers("small", "local")
    assert not OFFER.answers("small", "openai")
    assert not OFFER.answers("large", "local")
    assert msgspec.structs.replace(OFFER, models=None).answers("large", "local")


@given(st.binary(max_size=40))
@example(b"")
@example(b"\x81\x90\x01")
@pure
def test_any_bytes_are_an_offer_or_none(raw: bytes) -> None:
    assert worker_registry.unpack(raw) is None
