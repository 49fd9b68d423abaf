"""Which models there are and which can answer now, as the workers say. Chooses none: that is the worker's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import structlog
from redis.exceptions import RedisError

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import circuit, preferences, scripted
from tokenrelay.protocol.models.catalogue import NEUROSWITCH, Catalogue, Choice, Model
from tokenrelay.protocol.models.circuit import Record, Vitals
from tokenrelay.protocol.runtime.outage import Outage
from tokenrelay.protocol.runtime.redis import describe
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys, partitions, scripts, worker_registry
from tokenrelay.protocol.store.worker_registry import Offer
from tokenrelay.protocol.wire.request import ChatRequest, accepting, kinds_of
from tokenrelay.server.store.redis import UNREACHABLE

REFRESH_S: Final = 1.0
MAX_NAMED: Final = 8

log = structlog.get_logger()


class Asked(NamedTuple):
    """What becomes of a request: the name of its model from here on, and which rows may answer (`scripts.needs`)."""

    model: str
    needs: str


class Models:
    """The catalogue, and what the living workers offer of it."""

    def __init__(
        self, catalogue: Catalogue, store: Store, memory_s: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._memory_s = memory_s
        self._clock = clock
        self._offers: list[Offer] = []
        self._last_offered: dict[str, float] = {}  # by our own clock, of each row that a worker has offered
        self._records: dict[str, Record] = {}  # how each model has done lately, by its row
        self._now = 0.0  # by Redis's clock, when the two above were read

    def __repr__(self) -> str:
        return f"<Models {len(self._catalogue.models)} rows | {len(self._offers)} workers>"

    @property
    def workers(self) -> int:
        return len(self._offers)

    @property
    def are_late(self) -> bool:
        """Every living worker has more to do than it can."""
        return bool(self._offers) and all(offer.is_late for offer in self._offers)

    async def keep_fresh(self) -> None:
        """Owned by the application; ends only by being cancelled."""
        outage = Outage()
        while True:
            try:
                await self.refresh()
                outage.over()
            except (*UNREACHABLE, RedisError) as error:
                if outage.failed():
                    log.warning("offers_unread", redis=self._store.place(), error=describe(error))
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        name = self._store.names.for_all
        asked = [("TIME",), ("HVALS", name(keys.WORKERS)), ("HGETALL", name(keys.HEALTH))]
        (seconds, micros), raws, records = await self._store.ask_all(asked, partitions.GLOBAL)
        self._records, self._now = circuit.unpack_all(records), seconds + micros / 1_000_000
        now_ms = seconds * 1000 + micros // 1000
        read = (worker_registry.unpack(raw) for raw in raws)
        self._learn([offer for offer in read if offer is not None and offer.until_ms > now_ms])

    def _learn(self, offers: list[Offer]) -> None:
        self._offers, now = offers, self._clock()
        for model in self._catalogue.models:
            if self._reason(model) is None:
                self._last_offered[model.id] = now

    def check(self, request: ChatRequest) -> Asked:
        """What the request goes on as; refuses one that nobody can answer.

        With no worker at all nothing is refused: the generation waits for one, for as long as the queue allows. So
        does one whose model was offered a moment ago: its only worker is being restarted, and drains beside others.
        Raises TokenrelayError VALIDATION_ERROR (no such name), SERVICE_UNAVAILABLE (nobody offers it).
        """
        choices = self._catalogue.choices(request.model, request.provider)
        if request.model is not None and scripted.is_scripted(request.model):
            scripted.parse(request.model)
        choices = accepting(request, choices)
        if self._offers and not any(self._is_expected(choice.model) for choice in choices):
            reasons = "; ".join(sorted({f"{c.model.id}: {self._reason(c.model)}" for c in choices})) or "no model"
            message = f"no worker can answer now ({reasons}){self._instead(request)}"
            raise TokenrelayError("SERVICE_UNAVAILABLE", message, field="model")
        return Asked(request.model or NEUROSWITCH, scripts.needs(c.model.id for c in self._wanted(request, choices)))

    def _instead(self, request: ChatRequest) -> str:
        """Which models would answer if they were named, in words."""
        kinds = kinds_of(request)
        able = [row.id for row in self._catalogue.models if all(map(row.takes, kinds)) and self._reason(row) is None]
        if not able:
            return ""
        return f"; name one that can: {', '.join(able[:MAX_NAMED])}{', …' if len(able) > MAX_NAMED else ''}"

    def _wanted(self, request: ChatRequest, choices: Sequence[Choice]) -> Sequence[Choice]:
        """Those of `choices` that the caller does not avoid; all, where that leaves none: whoever takes it says so."""
        if not request.preferences or not self._catalogue.is_auto(request.model):
            return choices
        names = preferences.parse(request.preferences).avoid
        avoided = {row for name in names for row in self._catalogue.meant(name)}
        return [choice for choice in choices if choice.model.id not in avoided] or choices

    def label(self, name: str) -> str:
        """What a log calls it: the id of its row, never what somebody typed."""
        if self._catalogue.is_auto(name):
            return NEUROSWITCH
        try:
            [choice] = self._catalogue.choices(name, None)
        except (TokenrelayError, ValueError):  # a name that only means something with its provider
            return "other"
        is_row = choice.upstream == choice.model.upstream or choice.model.dialect == "scripted"
        return choice.model.id if is_row else "other"

    def _is_expected(self, model: Model) -> bool:
        """A worker offers it, or one did within the time that offers are remembered."""
        if self._reason(model) is None:
            return True
        last = self._last_offered.get(model.id)
        return last is not None and self._clock() - last < self._memory_s

    def _reason(self, model: Model) -> str | None:
        """Why no worker offers it; None when one does."""
        if any(offer.answers(model.id, model.source) for offer in self._offers):
            return None
        for offer in self._offers:
            if model.source in offer.lacks:
                return offer.lacks[model.source]
        return "no worker is running" if not self._offers else "not offered"

    def listing(self) -> list[dict[str, Any]]:
        """The rows of `GET /api/models`, NeuroSwitch last."""
        rows = []
        for model in self._catalogue.models:
            vitals = self._records.get(model.id, _UNKNOWN).vitals(self._catalogue.routing.health, self._now)
            # One that rests is not refused: its worker knows better by then, and may have another take over.
            reason = self._reason(model) or ("rests after failures" if vitals.circuit == "open" else None)
            rows.append(_row(model.id, model, reason, vitals))
        candidates = [model for model in self._catalogue.models if model.auto]
        reasons = [self._reason(model) for model in candidates]
        reason = None if None in reasons else "no model that it may choose is available"
        switch = _row(NEUROSWITCH, _SWITCH, reason, Vitals())
        varies = {"resolved_model": None, "context": None, "price": None}
        return [*rows, {**switch, **varies, "tools": any(model.tools for model in candidates)}]


_UNKNOWN: Final = Record()
_SWITCH: Final = Model(NEUROSWITCH, provider="Fusion", dialect="scripted", upstream="", names=("neuroswitch/mix",))


def _row(model_id: str, model: Model, reason: str | None, vitals: Vitals) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": model_id,
        "names": list(model.names),
        "provider": model.provider,
        "resolved_model": model.upstream,
        "streaming": True,
        "speed": model.speed,
        "tools": model.tools,
        "available": reason is None,
        "circuit": vitals.circuit,
        "ttft_ms": None if vitals.ttft_ms is None else round(vitals.ttft_ms),
        "context": model.context,
        "price": {"input": model.price.input, "output": model.price.output},
    }
    return row if reason is None else {**row, "unavailable_because": reason}
