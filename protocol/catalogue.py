"""The catalogue of models: names to who answers. Reads text, not files; knows no key and no maker's API."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from protocol import scripted
from protocol.errors import TokenrelayError
from protocol.lines import Lines, Path, steps
from protocol.rules import Kind, RoutingRules

Dialect: TypeAlias = Literal["local", "scripted", "responses", "chat_completions", "anthropic", "gemini"]
Parameter: TypeAlias = Literal["temperature", "top_p", "stop", "seed", "tools"]
TokenLimitField: TypeAlias = Literal["max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"]
Grade: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=5)]
Dollars: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=10_000)]

NEUROSWITCH: Final = "neuroswitch"
NEUROSWITCH_NAMES: Final = frozenset({NEUROSWITCH, "neuroswitch/mix", "neuroswitch mix", "neuroswitch-mix"})


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What NeuroSwitch weighs: grades from 1 (least) to 5 (most), and what a model is good at."""

    quality: Grade = 3
    speed: Grade = 3
    strengths: tuple[Kind, ...] = ()


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars for a million tokens."""

    input: Dollars = 0.0
    output: Dollars = 0.0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row. See the head of `workers/catalogue.toml` for what each field means."""

    id: str
    provider: str
    dialect: Dialect
    upstream: str
    speed: str = "Variable"
    accepts: tuple[Parameter, ...] = ()
    token_limit_field: TokenLimitField | None = None
    thinks: bool = False
    context: Annotated[int, msgspec.Meta(ge=1)] | None = None
    price: Price = Price()
    traits: Traits = Traits()
    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    auto: bool = False
    fallbacks: tuple[str, ...] = ()

    @property
    def tools(self) -> bool:
        """Whether it can call tools."""
        return "tools" in self.accepts


class Choice(msgspec.Struct, frozen=True):
    """Who answers: a row, and the upstream id to ask it for. `is_routed` when the caller left it to NeuroSwitch."""

    model: Model
    upstream: str
    is_routed: bool = False

    @property
    def vitals_of(self) -> str | None:
        """The row whose health this call tells of. None: of none. An id that is passed through may be anybody's
        invention, and the scripted model fails when a caller asks it to."""
        return self.model.id if self.upstream == self.model.upstream and self.model.dialect != "scripted" else None


class Misnamed(ValueError):
    """A name in row `row` (from 0), field `field`, cannot be; says why."""

    def __init__(self, row: int, field: str, name: str, issue: str) -> None:
        super().__init__(issue)
        self.row = row
        self.field = field
        self.name = name


class Catalogue:
    """All rows, found by any of their names, and how NeuroSwitch chooses among them. Raises Misnamed."""

    def __init__(self, models: Sequence[Model], routing: RoutingRules | None = None) -> None:
        self.models = tuple(models)
        self.routing = RoutingRules() if routing is None else routing
        self._by_name: dict[str, Model] = {}
        for row, model in enumerate(self.models):
            named = [("id", model.id), *(("names", name) for name in model.names), ("upstream", model.upstream)]
            for field, name in named:
                known = self._by_name.setdefault(name.lower(), model)
                if known is not model or name.lower() in NEUROSWITCH_NAMES:
                    issue = f"the name {name!r} of model {model.id!r} is taken by {known.id!r}"
                    raise Misnamed(row, field, name, issue)
        for row, model in enumerate(self.models):
            for name in model.fallbacks:
                if self._by_name.get(name.lower(), model) is model:
                    issue = f"the fallback {name!r} of model {model.id!r} is not the name of another model"
                    raise Misnamed(row, "fallbacks", name, issue)

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

    def meant(self, name: str) -> Collection[str]:
        """The ids of the rows that a maker's or a model's name means; none when it means nothing."""
        of_maker = [row.id for row in self.models if row.provider.lower() == name.lower()]
        if of_maker:
            return of_maker
        choice = self._find(name)
        return [] if choice is None else [choice.model.id]

    def fallbacks(self, name: str | None, provider: str | None) -> list[Choice]:
        """Who may answer in place of a model that the caller named and that cannot; in the row's own order.

        None for an exact upstream id: whoever writes that wants this model or an error. A caller that also named the
        maker gets only models of it. Raises as `choices` does.
        """
        if name is None or self.is_auto(name):
            return []
        choice = self.find(name, provider)
        if name.lower() == choice.upstream.lower() and name.lower() != choice.model.id.lower():
            return []
        rows = [self._by_name[other.lower()] for other in choice.model.fallbacks]
        return [Choice(row, row.upstream) for row in rows if provider is None or row.provider == choice.model.provider]

    def choices(self, name: str | None, provider: str | None) -> list[Choice]:
        """Who may answer a request: one row if the caller named it, else what NeuroSwitch may choose, as in the file.

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
        return [Choice(row, row.upstream, is_routed=True) for row in rows if row.auto]


# -- the file ---------------------------------------------------------------------------------------------------------

_SECTIONS: Final = ("model", "routing")
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`$")
_FIELD: Final = re.compile(r"unknown field `(?P<field>[^`]*)`")
_VALUE: Final = re.compile(r"^Invalid enum value '(?P<value>[^']*)'")
_TOML_PLACE: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


def parse(text: str) -> Catalogue:
    """A catalogue from TOML text. Raises ValueError that says what is wrong and in which line."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(text, str(error)) from error
    lines = Lines(text)
    for name in tables:
        if name not in _SECTIONS:
            raise _invalid(lines, (name,), f"Object contains unknown field `{name}`")
    rows = tables.get("model")
    if not isinstance(rows, list) or not rows:
        raise _invalid(lines, ("model",), "missing required field `model`: expected one [[model]] or more")
    models = [_converted(row, Model, lines, ("model", number)) for number, row in enumerate(rows)]
    routing = _converted(tables.get("routing", {}), RoutingRules, lines, ("routing",))
    try:
        return Catalogue(models, routing)
    except Misnamed as error:
        raise ValueError(f"line {lines.of(('model', error.row, error.field), error.name)}: {error}") from error


def _converted(value: Any, kind: type[Any], lines: Lines, place: Path) -> Any:
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        said = str(error)
        within = _PLACE.search(said)
        path: Path = (*place, *steps(within["path"])) if within else place
        if field := _FIELD.search(said):
            path = (*path, field["field"])
        raise _invalid(lines, path, said[: within.start()] if within else said) from error


def _invalid(lines: Lines, path: Path, issue: str) -> ValueError:
    spelled = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    value = _VALUE.match(issue)
    line = lines.of(path, value["value"] if value else None)
    return ValueError(f"line {line}: the catalogue is not valid: {issue} - at {spelled}")


def _not_toml(text: str, said: str) -> ValueError:
    place = _TOML_PLACE.search(said)
    issue = said[: place.start()] if place else said
    if place is not None and place["line"]:
        return ValueError(f"line {place['line']}, column {place['column']}: the catalogue is not TOML: {issue}")
    return ValueError(f"line {max(1, len(text.splitlines()))}: the catalogue is not TOML: {issue}")
