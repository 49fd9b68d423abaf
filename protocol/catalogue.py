"""The catalogue of models: names to who answers. Reads text, not files; knows no key and no maker's API."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from protocol import scripted
from protocol.errors import TokenrelayError

Dialect: TypeAlias = Literal["local", "scripted", "openai", "anthropic", "gemini"]

NEUROSWITCH: Final = "neuroswitch"
NEUROSWITCH_NAMES: Final = frozenset({NEUROSWITCH, "neuroswitch/mix", "neuroswitch mix", "neuroswitch-mix"})


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row. See the head of `workers/catalogue.toml` for what each field means."""

    id: str
    provider: str
    dialect: Dialect
    upstream: str
    speed: str = "Variable"
    tools: bool = False
    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    auto: int | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: list[Model]


class Choice(msgspec.Struct, frozen=True):
    """Who answers: a row, and the upstream id to ask it for. `is_routed` when the caller left it to NeuroSwitch."""

    model: Model
    upstream: str
    is_routed: bool = False


class Catalogue:
    """All rows, found by any of their names. Raises ValueError, naming the row, when two rows share a name."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self._by_name: dict[str, Model] = {}
        for model in self.models:
            for name in (model.id, *model.names, model.upstream):
                known = self._by_name.setdefault(name.lower(), model)
                if known is not model or name.lower() in NEUROSWITCH_NAMES:
                    raise ValueError(f"the name {name!r} of model {model.id!r} is taken by {known.id!r}")

    def is_auto(self, name: str | None) -> bool:
        """True when the caller leaves the choice to NeuroSwitch."""
        return name is None or name.lower() in NEUROSWITCH_NAMES

    def find(self, name: str, provider: str | None = None) -> Choice:
        """The row a name means. Raises TokenrelayError VALIDATION_ERROR, field `model` or `provider`."""
        choice = self._find(name)
        if choice is None:
            issue = f"no model is called {name[:80]!r}; GET /api/models lists the names"
            raise TokenrelayError("VALIDATION_ERROR", f"model: {issue}", field="model", issue=issue)
        if provider is not None and provider.lower() != choice.model.provider.lower():
            issue = f"{name[:80]!r} is a model of {choice.model.provider}, not of {provider[:80]!r}"
            raise TokenrelayError("VALIDATION_ERROR", f"provider: {issue}", field="provider", issue=issue)
        return choice

    def _find(self, name: str) -> Choice | None:
        if scripted.is_scripted(name):
            name = scripted.NAME
        model = self._by_name.get(name.lower())
        if model is not None:
            return Choice(model, model.upstream)
        for model in self.models:
            if any(name.startswith(prefix) for prefix in model.prefixes):
                return Choice(model, name)
        return None

    def choices(self, name: str | None, provider: str | None) -> list[Choice]:
        """Who may answer a request, best first: one row if the caller named it, else what NeuroSwitch may choose.

        Raises TokenrelayError VALIDATION_ERROR for a name or a provider that means nothing.
        """
        if name is not None and not self.is_auto(name):
            return [self.find(name, provider)]
        rows = self.models
        if provider is not None and provider.lower() not in NEUROSWITCH_NAMES:
            if provider.lower() in self._by_name and not any(provider.lower() == m.provider.lower() for m in rows):
                return [self.find(provider)]
            rows = tuple(row for row in rows if row.provider.lower() == provider.lower())
            if not rows:
                issue = f"no maker is called {provider[:80]!r}"
                raise TokenrelayError("VALIDATION_ERROR", f"provider: {issue}", field="provider", issue=issue)
            return [Choice(row, row.upstream) for row in rows]
        ranked = sorted((row for row in rows if row.auto is not None), key=lambda row: row.auto or 0)
        return [Choice(row, row.upstream, is_routed=True) for row in ranked]


def parse(text: str) -> Catalogue:
    """A catalogue from TOML text. Raises ValueError that says what is wrong and where."""
    try:
        return Catalogue(msgspec.toml.decode(text, type=_File).model)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"the catalogue is not valid: {error}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"the catalogue is not TOML: {error}") from error
