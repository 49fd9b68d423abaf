"""What a generation may use: opened once a process, shared by all generations. Knows no generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenrelay.protocol.models.catalogue import Catalogue
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.runtime.tracing import Tracing
from tokenrelay.workers.append.writer import Writer
from tokenrelay.workers.circuit import Circuits
from tokenrelay.workers.metrics import Metrics
from tokenrelay.workers.providers.base import Provider
from tokenrelay.workers.settings import Settings
from tokenrelay.workers.tools.registry import Toolbox


@dataclass(frozen=True, slots=True)
class Resources:
    """`providers` by source: a dialect, or a server of the catalogue."""

    settings: Settings
    store: Store
    catalogue: Catalogue
    providers: Mapping[str, Provider]
    tools: Toolbox
    circuits: Circuits
    writer: Writer
    metrics: Metrics
    tracing: Tracing

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of the rows that this process can answer."""
        return tuple(row.id for row in self.catalogue.models if row.source in self.providers)


def open_resources(
    settings: Settings,
    store: Store,
    catalogue: Catalogue,
    providers: Mapping[str, Provider],
    worker_id: str,
    tools: Toolbox | None = None,
    tracing: Tracing | None = None,
) -> Resources:
    """Awaits nothing. What was opened before (providers, tools, tracing) stays its opener's to close."""
    metrics = Metrics()
    return Resources(
        settings=settings,
        store=store,
        catalogue=catalogue,
        providers=providers,
        tools=tools or Toolbox(),
        circuits=Circuits(catalogue.routing.health, worker_id, settings.first_token_timeout_s),
        writer=Writer(store, metrics),
        metrics=metrics,
        tracing=tracing or Tracing(),
    )
