"""The scripted model's name, taken apart."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import scripted
from tokenrelay.protocol.models.scripted import ScriptedSpec

NAMES: list[tuple[str, ScriptedSpec]] = [
    ("scripted", ScriptedSpec()),
    ("scripted?", ScriptedSpec()),
    ("Scripted?tokens=5", ScriptedSpec(tokens=5)),
    ("scripted?tokens=0&interval_ms=0", ScriptedSpec(tokens=0, interval_ms=0)),
    ("scripted?tokens=200&interval_ms=20&first_ms=7&fail_after=3&stall_after=4&tool_after=0",
     ScriptedSpec(200, 20, 7, fail_after=3, stall_after=4, tool_after=0)),
    ("scripted?tokens=1000000&first_ms=3600000", ScriptedSpec(tokens=1_000_000, first_ms=3_600_000)),
    ("scripted?tokens=1&tokens=2", ScriptedSpec(tokens=2)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spec"), NAMES)
def test_a_name_is_a_script(name: str, spec: ScriptedSpec) -> None:
    assert scripted.is_scripted(name)
    assert scripted.parse(name) == spec


REFUSED = [
    ("scripted?speed=1", "unknown parameter 'speed'"),
    ("scripted?Tokens=1", "unknown parameter 'Tokens'"),
    ("scripted?=1", "unknown parameter ''"),
    ("scripted?tokens", "got ''"),
    ("scripted?tokens=x", "got 'x'"),
    ("scripted?tokens=-1", "from 0 to 1000000"),
    ("scripted?tokens=1.5", "got '1.5'"),
    ("scripted?tokens=1000001", "from 0 to 1000000"),
    ("scripted?tokens=99999999999999999999", "from 0 to 1000000"),
    ("scripted?interval_ms=3600001", "from 0 to 3600000"),
    ("scripted?tokens=٣", "tokens is an integer"),
]


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_what_cannot_be_played_is_refused(name: str, words: str) -> None:
    with pytest.raises(TokenrelayError) as caught:
        scripted.parse(name)
    assert caught.value.fields["field"] == "model"
    assert words in caught.value.fields["issue"]


@pytest.mark.parametrize("name", ["", "script", "scripted2", "my scripted", "scripted&tokens=1", "local?scripted"])
def test_other_names_are_no_scripts(name: str) -> None:
    assert not scripted.is_scripted(name)
