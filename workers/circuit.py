"""One worker's view of how the models do: what all workers know, and what it has seen itself since; calls no model.

Awaits Redis once a second (`sync`), and once for a model whose circuit is half open: one worker may try.
"""

from __future__ import annotations

import time
from typing import Final

import structlog

from tokenrelay.protocol.models import circuit
from tokenrelay.protocol.models.catalogue import Choice
from tokenrelay.protocol.models.circuit import Outcome, Record, Vitals
from tokenrelay.protocol.models.routing_rules import HealthRules
from tokenrelay.protocol.runtime.stores.base import Store
from tokenrelay.protocol.store import keys, partitions, scripts
from tokenrelay.protocol.store.scripts import Share
from tokenrelay.workers.redis import AWAY

SYNC_S: Final = 1.0
TRIES: Final = 3
"""Another worker may write between our read and our write; what loses three times waits for the next second."""

MAX_NEWS: Final = 200
"""Outcomes of one model kept while Redis is away."""

log = structlog.get_logger()


class Circuits:
    """The records of all models, by the id of their row. `trial_s`: the longest a trial may take."""

    def __init__(self, rules: HealthRules, worker_id: str, trial_s: float) -> None:
        self._rules = rules
        self._worker_id = worker_id
        self._trial_ms = round(trial_s * 1000) + 1
        self._raws: dict[bytes, bytes] = {}  # as last read
        self._records: dict[str, Record] = {}  # the same with our news in them
        self._news: dict[str, list[Outcome]] = {}  # what Redis does not know yet
        self._trials: dict[str, bool] = {}  # models we try; True: it is over and the key can go
        self._held_off: dict[str, float] = {}  # models another worker tries: until when not to ask for the key
        self._ahead_s = time.time() - time.monotonic()  # of Redis's clock before ours; a guess until the first sync

    def __repr__(self) -> str:
        resting = sum(bool(record.open_for_s) for record in self._records.values())
        return f"<Circuits {len(self._records)} models | {resting} resting | {len(self._trials)} trials>"

    def now(self) -> float:
        """Seconds by Redis's clock, as far as we know it."""
        return time.monotonic() + self._ahead_s

    def vitals(self) -> dict[str, Vitals]:
        """Of every model that was ever asked."""
        now = self.now()
        return {model: record.vitals(self._rules, now) for model, record in self._records.items()}

    def rest_s(self, choice: Choice) -> float:
        """How long not to ask it: its circuit is open, or another worker is trying it."""
        model = choice.vitals_of
        if model is None or model not in self._records:
            return 0.0
        now = self.now()
        record = self._records[model]
        if record.circuit(now) != "half_open":
            return record.rest_s(now)
        return SYNC_S if model in self._trials else max(0.0, self._held_off.get(model, 0.0) - now)

    async def may_ask(self, store: Store, choice: Choice) -> bool:
        """Whether to call it now. If so, `succeeded`, `failed` or `dropped` must follow; if not, it rests."""
        model = choice.vitals_of
        if self.rest_s(choice) > 0:
            return False
        if model is None or model not in self._records or self._records[model].circuit(self.now()) == "closed":
            return True
        self._trials[model] = False  # before the await: of our own generations, too, only one tries
        try:
            name = store.names.for_all(keys.trial(model))
            if await store.ask("SET", name, self._worker_id, "NX", "PX", self._trial_ms):
                log.info("circuit_trial", model=model)
                return True
        except AWAY as error:
            log.warning("trial_failed", error=type(error).__name__)
        except BaseException:
            self._trials[model] = True
            raise
        del self._trials[model]
        self._held_off[model] = self.now() + SYNC_S
        return False

    def succeeded(self, choice: Choice, ttft_ms: float) -> None:
        """Its first piece has come."""
        self._tell(choice, Outcome(self.now(), ttft_ms))

    def failed(self, choice: Choice) -> None:
        self._tell(choice, Outcome(self.now()))

    def dropped(self, choice: Choice) -> None:
        """The call was given up, or failed for what is not the model's fault: it says nothing of it."""
        if choice.vitals_of in self._trials:
            self._trials[choice.vitals_of] = True

    def _tell(self, choice: Choice, outcome: Outcome) -> None:
        model = choice.vitals_of
        if model is None:
            return
        before = self._records.get(model, Record())
        after = self._records[model] = before.after(self._rules, [outcome])
        if after.open_for_s != before.open_for_s:
            log.warning("circuit_changed", model=model, rests_s=after.open_for_s)
        news = self._news.setdefault(model, [])
        news.append(outcome)
        del news[:-MAX_NEWS]
        self.dropped(choice)

    # -- with the others -----------------------------------------------------------------------------------------------

    async def sync(self, store: Store) -> None:
        """Learn what the others saw, tell what we saw. Raises what is in `AWAY`."""
        for _ in range(TRIES):
            await self._read(store)
            await self._write(store)
            if not self._news:
                return

    async def _read(self, store: Store) -> None:
        asked = [("TIME",), ("HGETALL", store.names.for_all(keys.HEALTH))]
        (seconds, micros), self._raws = await store.ask_all(asked, partitions.GLOBAL)
        self._ahead_s = seconds + micros / 1_000_000 - time.monotonic()
        self._records = circuit.unpack_all(self._raws)
        for model, news in self._news.items():
            self._records[model] = self._records.get(model, Record()).after(self._rules, news)

    async def _write(self, store: Store) -> None:
        told, self._news = self._news, {}
        over = {model for model, is_over in self._trials.items() if is_over}
        shares = [
            Share(
                model,
                self._raws.get(model.encode(), b""),
                circuit.pack(self._records[model]) if model in told else b"",
                ends_trial=model in over,
            )
            for model in {*told, *over}
        ]
        if not shares:
            return
        stored: frozenset[str] = frozenset()
        try:
            arguments = scripts.share(self._worker_id, circuit.KEPT_MS, shares, store.names)
            stored = scripts.share_reply(await store.run(scripts.SHARE, arguments, partitions.GLOBAL))
        finally:
            lost = {model: news for model, news in told.items() if model not in stored}
            for model, news in lost.items():
                self._news[model] = [*news, *self._news.get(model, [])][-MAX_NEWS:]
        for model in over - lost.keys():
            self._trials.pop(model, None)
