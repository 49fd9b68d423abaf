"""The catalogue of models: which model answers to which name. Reads text, not files; knows no key and no API."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import scripted
from tokenrelay.protocol.models.routing_rules import Kind, RoutingRules
from tokenrelay.protocol.models.toml_lines import Lines, Path, steps

ServerDialect: TypeAlias = Literal["chat_completions", "responses", "anthropic", "gemini"]
Dialect: TypeAlias = Literal["local", "scripted", "responses", "chat_completions", "anthropic", "gemini", "python"]
Parameter: TypeAlias = Literal["temperature", "top_p", "stop", "seed", "tools", "images", "files", "audio"]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TokenLimitField: TypeAlias = Literal["max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"]
Grade: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=5)]
Dollars: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=10_000)]

_HANDLER: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"  # package.module:name
NEUROSWITCH: Final = "neuroswitch"
NEUROSWITCH_NAMES: Final = frozenset({NEUROSWITCH, "neuroswitch/mix", "neuroswitch mix", "neuroswitch-mix"})


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What NeuroSwitch weighs: grades from 1 (least) to 5 (most), and what a model is good at."""

    quality: Grade = 3
    speed: Grade = 3
    strengths: tuple[Kind, ...] = ()


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars for a million tokens. What a cache gave or took costs as other input where it has no price."""

    input: Dollars = 0.0
    output: Dollars = 0.0
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[servers.NAME]`: where it is, what it speaks, and which environment variable holds its key (None: no key).

    `base_url` is what the dialect's own SDK would take.
    """

    base_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+\S*$")]
    dialect: ServerDialect = "chat_completions"
    key_env: Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] | None = None


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row. See the head of `protocol/models/catalogue.toml` for what each field means."""

    id: str
    provider: str
    dialect: Dialect
    upstream: str
    server: str | None = None
    handler: Annotated[str, msgspec.Meta(pattern=_HANDLER)] | None = None
    speed: str = "Variable"
    accepts: tuple[Parameter, ...] = ()
    token_limit_field: TokenLimitField | None = None
    thinks: bool = False
    efforts: tuple[Effort, ...] = ()
    extra: dict[str, Any] = {}
    api_version: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.-]{1,40}$")] | None = None
    max_output: Annotated[int, msgspec.Meta(ge=1)] | None = None
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

    def takes(self, kind: str) -> bool:
        """Whether a turn may hold parts of this kind (`images`, `files`, `audio`, and `file_url` for a file by its
        address): its row says so, and its dialect has words for it."""
        if kind == "audio" and self.dialect in ("responses", "anthropic"):
            return False
        if kind == "file_url":
            return "files" in self.accepts and self.dialect != "chat_completions"
        return kind in self.accepts

    @property
    def source(self) -> str:
        """Who is asked: a `[servers]` table by its name, `python:ID` for a handler, else the one
        provider of the dialect."""
        if self.dialect == "python":
            return f"python:{self.id}"
        return self.server or self.dialect


class Choice(msgspec.Struct, frozen=True):
    """Who answers: a row, and the upstream id to ask it for. `is_routed` when the caller left it to NeuroSwitch."""

    model: Model
    upstream: str
    is_routed: bool = False

    @property
    def vitals_of(self) -> str | None:
        """The row whose health this call tells of. None: of none. An id that is passed through may be anybody's
        invention; the scripted model fails when a caller asks it to, and a handler that fails on one caller's request
        may serve all others."""
        is_its_own = self.upstream == self.model.upstream and self.model.dialect not in ("scripted", "python")
        return self.model.id if is_its_own else None


class Misnamed(ValueError):
    """A name in row `row` (from 0), field `field`, cannot be; says why."""

    def __init__(self, row: int, field: str, name: str, issue: str) -> None:
        super().__init__(issue)
        self.row = row
        self.field = field
        self.name = name


class Catalogue:
    """All rows, found by any of their names, and how NeuroSwitch chooses among them. Raises Misnamed.

    Ids and names belong to one row each. Rows of different providers may share an upstream id: it means the first of
    them, or, with `provider`, that provider's.
    """

    def __init__(
        self,
        models: Sequence[Model],
        routing: RoutingRules | None = None,
        servers: Mapping[str, Server] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.routing = RoutingRules() if routing is None else routing
        self.servers = dict(servers or {})
        self._by_name: dict[str, Model] = {}
        self._by_upstream: dict[str, list[Model]] = {}
        for row, model in enumerate(self.models):
            for field, name in (("id", model.id), *(("names", name) for name in model.names)):
                self._check(row, field, name, model, [*self._named(name), *self._of_same_provider(name, model)])
                self._by_name[name.lower()] = model
            rivals = [other for other in self._named(model.upstream) if _same_provider(other, model)]
            rivals += self._of_same_provider(model.upstream, model)
            self._check(row, "upstream", model.upstream, model, rivals)
            self._by_upstream.setdefault(model.upstream.lower(), []).append(model)
        for row, model in enumerate(self.models):
            for name in model.fallbacks:
                if self._fallback(name) in (None, model):
                    issue = f"the fallback {name!r} of model {model.id!r} is not the name of another model"
                    raise Misnamed(row, "fallbacks", name, issue)

    def _named(self, name: str) -> list[Model]:
        model = self._by_name.get(name.lower())
        return [] if model is None else [model]

    def _of_same_provider(self, upstream: str, model: Model) -> list[Model]:
        return [other for other in self._by_upstream.get(upstream.lower(), ()) if _same_provider(other, model)]

    def _check(self, row: int, field: str, name: str, model: Model, rivals: Sequence[Model]) -> None:
        known = next((other for other in rivals if other is not model), model)
        if known is not model or name.lower() in NEUROSWITCH_NAMES:
            raise Misnamed(row, field, name, f"the name {name!r} of model {model.id!r} is taken by {known.id!r}")

    def _fallback(self, name: str) -> Model | None:
        """The row that a fallback names, by a name of ours or an upstream id."""
        return next(iter((*self._named(name), *self._by_upstream.get(name.lower(), ()))), None)

    def is_auto(self, name: str | None) -> bool:
        """True when the caller leaves the choice to NeuroSwitch."""
        return name is None or name.lower() in NEUROSWITCH_NAMES

    def find(self, name: str, provider: str | None = None) -> Choice:
        """The row a name means. Raises TokenrelayError VALIDATION_ERROR, field `model` or `provider`."""
        found = list(self._found(name))
        if not found:
            issue = f"no model is called {name[:80]!r}; GET /api/models lists the names"
            raise TokenrelayError("VALIDATION_ERROR", f"model: {issue}", field="model", issue=issue)
        if provider is None:
            return found[0]
        for choice in found:
            if choice.model.provider.lower() == provider.lower():
                return choice
        issue = f"{name[:80]!r} is a model of {found[0].model.provider}, not of {provider[:80]!r}"
        raise TokenrelayError("VALIDATION_ERROR", f"provider: {issue}", field="provider", issue=issue)

    def _found(self, name: str) -> Iterator[Choice]:
        """All that a name can mean, the likeliest first: a name of ours, an upstream id, the beginning of one."""
        if scripted.is_scripted(name):
            name = scripted.NAME
        for model in (*self._named(name), *self._by_upstream.get(name.lower(), ())):
            yield Choice(model, model.upstream)
        for model in self.models:
            if name.startswith(model.prefixes):
                yield Choice(model, name)

    def meant(self, name: str) -> Collection[str]:
        """The ids of the rows that a provider's or a model's name means; none when it means nothing."""
        of_provider = [row.id for row in self.models if row.provider.lower() == name.lower()]
        if of_provider:
            return of_provider
        return [choice.model.id for choice in self._found(name)][:1]

    def fallbacks(self, name: str | None, provider: str | None) -> list[Choice]:
        """Who may answer in place of a model that the caller named and that cannot; in the row's own order.

        None for an exact upstream id: whoever writes that wants this model or an error. A caller that also named the
        provider gets only models of it. Raises as `choices` does.
        """
        if name is None or self.is_auto(name):
            return []
        choice = self.find(name, provider)
        if name.lower() == choice.upstream.lower() and name.lower() != choice.model.id.lower():
            return []
        rows = [row for other in choice.model.fallbacks if (row := self._fallback(other)) is not None]
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
                issue = f"no provider is called {provider[:80]!r}"
                raise TokenrelayError("VALIDATION_ERROR", f"provider: {issue}", field="provider", issue=issue)
            return [Choice(row, row.upstream) for row in rows]
        return [Choice(row, row.upstream, is_routed=True) for row in rows if row.auto]


def _same_provider(one: Model, other: Model) -> bool:
    return one.provider.lower() == other.provider.lower()


# -- the file ---------------------------------------------------------------------------------------------------------

_SECTIONS: Final = ("model", "routing", "servers")
_SERVER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
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
    servers = _servers(tables.get("servers", {}), lines)
    models = [_model(row, servers, lines, ("model", number)) for number, row in enumerate(rows)]
    routing = _converted(tables.get("routing", {}), RoutingRules, lines, ("routing",))
    try:
        return Catalogue(models, routing, servers)
    except Misnamed as error:
        raise ValueError(f"line {lines.of(('model', error.row, error.field), error.name)}: {error}") from error


def _servers(tables: Any, lines: Lines) -> dict[str, Server]:
    if not isinstance(tables, dict):
        raise _invalid(lines, ("servers",), "expected tables [servers.NAME]")
    for name in tables:
        if _SERVER_NAME.fullmatch(name) is None:
            raise _invalid(lines, ("servers", name), "a name has letters, digits, _ and -, at most 32")
        if name in get_args(Dialect):
            raise _invalid(lines, ("servers", name), "a dialect's name cannot be a server's")
    return {name: _converted(table, Server, lines, ("servers", name)) for name, table in tables.items()}


def _model(row: Any, servers: Mapping[str, Server], lines: Lines, place: Path) -> Model:
    """A row whose server is known. Where it names no dialect it is its server's."""
    named = row.get("server") if isinstance(row, dict) else None
    server = servers.get(named) if isinstance(named, str) else None
    if server is not None:
        row = {"dialect": server.dialect, **row}
    model: Model = _converted(row, Model, lines, place)
    if (model.dialect == "python") != (model.handler is not None):
        issue = 'a row of dialect "python" names its handler = "package.module:name", and no other row has one'
        raise _invalid(lines, (*place, "dialect" if model.handler is None else "handler"), issue)
    if model.server is None:
        if model.dialect == "chat_completions":
            raise _invalid(lines, (*place, "dialect"), 'a row of this dialect names its server: server = "NAME"')
    elif server is None:
        raise _invalid(lines, (*place, "server"), f"there is no [servers.{model.server}]")
    elif server.dialect != model.dialect:
        raise _invalid(lines, (*place, "dialect"), f"[servers.{model.server}] speaks {server.dialect}")
    return model


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
