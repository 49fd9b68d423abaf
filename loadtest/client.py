"""One client and its stream, over any number of connections; knows no locust.

A behaviour is a function of a Client: start, read, drop, resume. Everything received is verified and measured.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

from tokenrelay.loadtest.figures import Record
from tokenrelay.loadtest.verify import Verifier
from tokenrelay.loadtest.wire import SUBPROTOCOLS, Sse, Target, WebSocket, WireError, get_json
from tokenrelay.protocol.models import scripted

SSE: Final = "SSE"
TRANSPORTS: Final = (SSE, *SUBPROTOCOLS)
ATTEMPTS: Final = 6
"""A client whose connection is refused or cut comes back so often before it gives up."""

STORM_EVERY_S: Final = 5.0
DICE: Final = random.SystemRandom()  # holds no state, so generators forked from one another do not draw alike
LATE_S: Final = 10.0

Fire: TypeAlias = Callable[[str, str, float, str | None], None]
"""(kind, name, milliseconds, trouble or None): a line for locust's table."""


def unheard(_kind: str, _name: str, _milliseconds: float, _trouble: str | None) -> None:
    """Where there is no table."""


class Run:
    """What all clients of one generator share."""

    def __init__(self, target: Target, model: str, late_s: float = LATE_S) -> None:
        self.target = target
        self.model = model
        self.record = Record()
        self.fire: Fire = unheard
        self.began = time.perf_counter()
        self.open = 0
        spec = scripted.parse(model) if scripted.is_scripted(model) else None
        pause_ms = max(spec.first_ms, spec.interval_ms) if spec else 60_000
        self.patience_s = late_s + pause_ms / 1000  # longer without a token is late

    def __repr__(self) -> str:
        return f"<Run {self.open} open | {self.record!r}>"

    @property
    def second(self) -> int:
        return int(time.perf_counter() - self.began)

    def serve(self, name: str, behaviour: Behaviour) -> None:
        """One stream from its start to its verdict. Raises nothing that a server can cause."""
        client = Client(self, name)
        begun = time.perf_counter()
        self.open += 1
        self.record.open_by_second[self.second] = self.open
        try:
            behaviour(client)
            if client.verifier.has_ended and client.verifier.tokens is None:
                client.verifier.compare(stored_text(self.target, client.stream_id))
        except WireError as error:
            client.give_up(str(error))
        except (ValueError, KeyError, TypeError) as error:
            client.give_up(f"an answer that is not the protocol: {type(error).__name__}")
        finally:
            self.open -= 1
            client.close()
        self._judge(client, name, (time.perf_counter() - begun) * 1000)

    def _judge(self, client: Client, name: str, milliseconds: float) -> None:
        verifier, record = client.verifier, self.record
        record.counts.update(streams=1, lost=verifier.lost, repeated=verifier.repeated)
        trouble: Counter[str] = Counter(verifier.faults)
        if verifier.lost:
            trouble[f"lost tokens ({name})"] += 1
        if verifier.repeated:
            trouble[f"repeated tokens ({name})"] += 1
        if verifier.faults:
            record.counts["failed"] += 1
        for sentence in trouble:
            record.note(sentence)
        record.quantities["completion_ms"].add(milliseconds)
        record.split(verifier.timing)
        if client.largest_gap_ms:
            self.fire(name, "gap (largest of a stream)", client.largest_gap_ms, None)
        self.fire(name, "completion", milliseconds, "; ".join(trouble) or None)


class Client:
    """`start` or `resume`, then `read`; `drop` in between. One connection at a time."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.verifier = Verifier(run.model)
        self.stream_id = ""
        self.largest_gap_ms = 0.0
        self.measures_gaps = True  # False for who makes them itself
        self._name = name
        self._transport = SSE
        self._connection: Sse | WebSocket | None = None  # None before the start and after a drop
        self._waits_since: float | None = None  # the request's first byte out, until what it asked for is there
        self._is_resuming = False
        self._last_token_at: float | None = None  # on this connection
        self._due_from = 0.0  # when the last token came, or the connection asked for more

    def start(self, transport: str, receive_buffer: int | None = None) -> None:
        connection = self._open(transport, receive_buffer)
        self._is_resuming = False
        connection.start(self.run.model)
        self._waits_since = self._due_from = connection.sent_at

    def resume(self, transport: str) -> None:
        """From the cursor. Comes back some times when it is refused."""
        for attempt in range(ATTEMPTS):
            try:
                connection = self._open(transport, None)
                connection.resume(self.stream_id, self.verifier.last_id)
            except WireError:
                if attempt + 1 == ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**attempt)
            else:
                self._is_resuming = True
                self._waits_since = self._due_from = connection.sent_at
                return

    def read(self, until: Callable[[], bool] = lambda: False) -> None:
        """Until the end of the stream or of the connection, or until told; looked at after every read.

        Raises WireError when no token comes for longer than is allowed, whatever heartbeats say.
        """
        connection = self._connection
        assert connection is not None
        while not (self.verifier.has_ended or connection.has_closed or until()):
            events = connection.events()
            now = time.perf_counter()
            self.stream_id = self.stream_id or connection.stream_id
            tokens = sum(self.verifier.take(event_id, data) for event_id, data in events)
            if tokens:
                self._due_from = now
                self._took(tokens, now)
            elif now - self._due_from > self.run.patience_s and not self.verifier.has_ended:
                raise WireError("late: no token for longer than is allowed")
            if self._is_resuming and self._waits_since is not None and (events or connection.has_closed):
                self._measured("resume", "resume_ms", (now - self._waits_since) * 1000)
                self._waits_since = None

    def read_to_the_end(self) -> None:
        """Comes back when the connection ends before the stream does. Raises WireError when that does not help."""
        for _ in range(ATTEMPTS):
            try:
                self.read()
            except WireError as error:
                if not self.stream_id or "late" in str(error):
                    raise
            if self.verifier.has_ended:
                return
            if not self.stream_id:
                raise WireError("closed before it began")
            self.close()
            self.resume(self._transport)
        raise WireError("the stream did not come to its end")

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.drop()
        self._connection = None
        self._last_token_at = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.socket.close()
        self._connection = None
        self._last_token_at = None

    def give_up(self, why: str) -> None:
        if self.stream_id:
            self.verifier.give_up(why)
        else:
            self.verifier.faults.append(why)  # never begun: nothing could be lost

    def _open(self, transport: str, receive_buffer: int | None) -> Sse | WebSocket:
        target, patience = self.run.target, self.run.patience_s
        made: Sse | WebSocket
        if transport == SSE:
            made = Sse(target, patience, receive_buffer)
        else:
            made = WebSocket(target, patience, receive_buffer, subprotocol=transport)
        self._connection, self._transport = made, transport
        self._measured("connect", "connect_ms", made.connect_s * 1000)
        return made

    def _took(self, tokens: int, now: float) -> None:
        run = self.run
        run.record.counts["tokens"] += tokens
        if self._waits_since is not None and not self._is_resuming:
            ttft_ms = (now - self._waits_since) * 1000
            self._waits_since = None
            run.record.first_token(run.second, run.open, ttft_ms)
            run.fire(self._name, "TTFT", ttft_ms, None)
        if self._last_token_at is not None and self.measures_gaps:
            gap_ms = (now - self._last_token_at) * 1000
            self.largest_gap_ms = max(gap_ms, self.largest_gap_ms)
            run.record.quantities["gap_ms"].add(gap_ms)
            if gap_ms > run.patience_s * 1000:
                self.verifier.faults.append("late: a token came after longer than is allowed")
        self._last_token_at = now

    def _measured(self, name: str, quantity: str, milliseconds: float) -> None:
        self.run.record.quantities[quantity].add(milliseconds)
        self.run.fire(self._name, name, milliseconds, None)


Behaviour: TypeAlias = Callable[[Client], None]


def sse_chat(client: Client) -> None:
    client.start(SSE)
    client.read_to_the_end()


def websocket_chat(client: Client) -> None:
    client.start(DICE.choice(SUBPROTOCOLS))
    client.read_to_the_end()


def resumer(client: Client) -> None:
    """Drops one to four times at random places, and carries on over a transport chosen at random."""
    verifier = client.verifier
    client.start(DICE.choice(TRANSPORTS))
    client.read(lambda: verifier.last_id > 0)  # before its first event nobody has anything to come back with
    drops = DICE.randint(1, 4)
    reach = max(1, (verifier.tokens or 100) // (drops + 1))
    for _ in range(drops):
        where = verifier.last_id + DICE.randint(0, reach)
        client.read(lambda where=where: verifier.last_id >= where)  # type: ignore[misc]
        if verifier.has_ended:
            break
        client.drop()
        if DICE.random() < 0.5:
            time.sleep(DICE.random() / 2)
        client.resume(DICE.choice(TRANSPORTS))
    client.read_to_the_end()


def late_joiner(client: Client) -> None:
    """Another device, some way into the answer: all of it, then live."""
    client.start(DICE.choice(TRANSPORTS))
    client.read(lambda: bool(client.stream_id))
    client.drop()
    client.verifier = Verifier(client.run.model)
    time.sleep(DICE.random() * 2)
    client.resume(DICE.choice(TRANSPORTS))
    client.read_to_the_end()


def slow_reader(client: Client) -> None:
    """A small buffer and long pauses for three seconds, then all the rest."""
    client.measures_gaps = False
    client.start(DICE.choice(TRANSPORTS), receive_buffer=4096)
    awake = time.perf_counter() + 3

    def dawdle() -> bool:
        if time.perf_counter() < awake:
            time.sleep(0.3)
        return False

    client.read(dawdle)
    client.read_to_the_end()


def storm(client: Client) -> None:
    """Cut off at the same moment as all others (the wall clock says when), and back at once."""
    verifier = client.verifier
    client.start(DICE.choice(TRANSPORTS))
    client.read(lambda: verifier.last_id > 0)
    while not verifier.has_ended:
        moment = (time.time() // STORM_EVERY_S + 1) * STORM_EVERY_S
        client.read(lambda moment=moment: time.time() >= moment)  # type: ignore[misc]
        if not verifier.has_ended:
            client.drop()
            client.resume(DICE.choice(TRANSPORTS))


BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "SseChat": sse_chat,
    "WebSocketChat": websocket_chat,
    "Resumer": resumer,
    "LateJoiner": late_joiner,
    "SlowReader": slow_reader,
    "Storm": storm,
}


def stored_text(target: Target, stream_id: str) -> str:
    return str(get_json(target, f"/api/streams/{stream_id}")["text"])
