/**
 * One generation being read, over as many connections as it takes. Knows no wire: transports do, and `Answer` keeps.
 *
 * @typedef {"connecting" | "queued" | "streaming" | "reconnecting" | "done" | "failed" | "detached"} State
 */

import { Answer } from "./answer.js";
import { Backoff, Pause, isOffline, onWake } from "./backoff.js";
import { errorOf } from "./errors.js";
import { RetryPolicy } from "./retry.js";
import { stop } from "./stop.js";

export class Stream {
  #answer;
  #request; // {body, idempotencyKey}; body null for a stream that is resumed
  #transports; // in the order in which they are tried
  #context; // what it shares with the client's others: see client.js
  #backoff;
  #retry;
  #pause;
  #connection = new AbortController(); // of the connection under way
  #isHurried = false; // it was ended by us, to open another at once
  #heardAt;
  #beganAt;
  #cancelling = null; // the promise of a stop under way
  #lost = null; // why its id never came, of one that was left
  #isReading = false;
  #away = null; // ends the wait for a page that the browser has put away; null while it is there
  #listeners = new Set();
  #stopListening;
  #settle;

  /** @type {State} */
  state = "connecting";
  /** Null until the server has said it. @type {string | null} */
  streamId;
  /** Connections that came to nothing, in a row; 0 while all is well. */
  attempts = 0;
  /** When the next one is tried, by the client's clock (`Date.now()`); null where none is waited for. */
  retryAt = null;
  /** Why it failed; null unless `state` is `failed`. @type {import("./errors.js").TokenrelayError | null} */
  error = null;
  /** The completion event's object; null where it is not read to the end. @type {Promise<object | null>} */
  done;

  /** Made by a client: `client.chat`, `client.resume`. */
  constructor({ body, streamId, after, idempotencyKey, transports, firstPatienceMs }, context) {
    this.#answer = new Answer(after);
    this.#request = { body, idempotencyKey };
    this.#transports = transports;
    this.#context = context;
    this.#backoff = new Backoff(context.clock.random);
    this.#retry = new RetryPolicy(this.#backoff, context.patienceMs, firstPatienceMs, context.hint);
    this.#pause = new Pause(context.clock);
    this.#heardAt = this.#beganAt = context.clock.now();
    this.streamId = streamId;
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.done.catch(() => {}); // who does not look at it reads `state`, or iterates
    this.#stopListening = onWake(context.page, (why) => this.#wake(why));
    this.#read();
  }

  get text() {
    return this.#answer.text;
  }

  /** Every event so far, `{id, data}`. Grows; do not change it. */
  get events() {
    return this.#answer.events;
  }

  /** Where to resume; 0 before any event. */
  get lastEventId() {
    return this.#answer.lastEventId;
  }

  /** `sse` or `websocket`: the one in use, or tried next. */
  get transport() {
    return this.#transports[0].name;
  }

  get isOver() {
    return this.state === "done" || this.state === "failed" || this.state === "detached";
  }

  get idempotencyKey() {
    return this.#request.idempotencyKey;
  }

  /** Every event from the first on, for each loop over it; ends with the stream. @throws {TokenrelayError} */
  async *[Symbol.asyncIterator]() {
    for (let next = 0; ; ) {
      while (next < this.events.length) yield this.events[next++];
      if (this.isOver) break;
      await new Promise((resolve) => this.#once(resolve));
    }
    if (this.error !== null) throw this.error;
  }

  /**
   * Calls back after every change of text, events or state.
   * @param {() => void} listener
   * @returns {() => void} ends it
   */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Stops the generation for good, for all who read it. Resolves once the server knows. The stop lives on when the
   * stream is detached, and a start that is not answered yet is stopped when it is.
   * @throws {TokenrelayError}
   */
  cancel() {
    if (this.#cancelling === null) {
      this.#cancelling = this.#cancel().finally(() => (this.#cancelling = null));
      this.#context.keep(this.#cancelling);
    }
    return this.#cancelling;
  }

  /**
   * Calls back with each data event, those that are there already first.
   * @param {"data"} kind
   * @param {(value: unknown, name: string) => void} listener
   * @returns {() => void} ends it
   */
  on(kind, listener) {
    if (kind !== "data") throw new TypeError(`a stream tells of "data", not of ${JSON.stringify(kind)}`);
    let next = 0;
    const tell = () => {
      while (next < this.events.length) {
        const { data } = this.events[next++]; // first: a listener may change the stream
        if (data.data_name !== undefined) listener(data.data, data.data_name);
      }
    };
    const end = this.subscribe(tell);
    tell();
    return end;
  }

  /** Stops reading; the generation goes on and can be resumed. */
  detach() {
    if (!this.isOver) this.#finish("detached");
  }

  /** Does not wait any longer for the next try. */
  retryNow() {
    this.#pause.end();
  }

  /** Goes on over another transport, from the same cursor. @param {"sse" | "websocket"} name */
  use(name) {
    if (this.isOver || this.transport === name) return;
    this.#transports = [this.#context.transportNamed(name)];
    this.#reconnect();
  }

  // -- reading -------------------------------------------------------------------------------------------------------

  #read() {
    this.#isReading = true;
    // Whatever a transport does that it must not: a stream ends, and never hangs.
    this.#run().catch((error) => this.#finish("failed", error)).finally(() => {
      this.#isReading = false;
      this.#tell();
    });
  }

  async #run() {
    await null; // who made it can subscribe first
    while (!this.#isSettled) {
      const { signal } = (this.#connection = new AbortController());
      const before = this.events.length;
      const outcome = await this.#transports[0].read(this.#asked, this.#reader(signal), signal);
      if (this.#isSettled) break;
      if (outcome.kind === "ended") return this.#finish("done");
      if (this.events.length > before) this.#retry.reset();
      await this.#between(outcome);
    }
  }

  /** It is over, and no stop wants to know its id. */
  get #isSettled() {
    return this.isOver && !(this.#cancelling !== null && this.streamId === null);
  }

  get #asked() {
    return { ...this.#request, streamId: this.streamId, after: this.lastEventId };
  }

  /** What a connection tells; one that has been given up tells nothing any more. */
  #reader(signal) {
    const ifCurrent = (tell) => (...facts) => signal.aborted || this.#isSettled || tell(...facts);
    return {
      opened: ifCurrent((streamId) => this.#opened(streamId)),
      event: ifCurrent((id, data) => this.#take(id, data)),
      retry: ifCurrent((ms) => this.#backoff.advise(ms)),
      heard: ifCurrent(() => (this.#heardAt = this.#context.clock.now())),
    };
  }

  #opened(streamId) {
    this.#heardAt = this.#context.clock.now();
    this.#retry.heard();
    if (this.#learn(streamId)) this.#show(this.#answer.hasStarted ? "streaming" : "queued");
  }

  /** Whether it is still read. One that was left has been read on for its id alone. */
  #learn(streamId) {
    this.streamId ??= streamId ?? null;
    if (!this.isOver) return true;
    if (this.streamId !== null) this.#connection.abort();
    this.#tell();
    return false;
  }

  #take(id, data) {
    // The header may be hidden from a page of another origin.
    if (!this.#learn(data.stream_id) || !this.#answer.take(id, data)) return;
    this.attempts = 0;
    const { end } = this.#answer;
    if (end === null) this.#show(this.#answer.hasStarted ? "streaming" : "queued");
    else this.#finish(end.error_code === undefined ? "done" : "failed", end.error_code && errorOf(end));
  }

  /** After a connection that was not the last. */
  async #between(outcome) {
    if (this.#away !== null) return this.#away.promise;
    if (this.#isHurried) return void (this.#isHurried = false);
    if (this.#cancelling !== null && this.streamId === null && outcome.kind === "refused" && !outcome.byTransport) {
      return this.#finish("done"); // it was not begun, and shall not be
    }
    if (outcome.kind === "refused" && !outcome.byTransport) this.#retry.heard();
    const offline = isOffline(this.#context.page);
    const decision = this.#retry.after(outcome, {
      hasId: this.streamId !== null,
      isCursorOurs: this.#answer.isCursorOurs,
      isOffline: offline,
      hasOther: this.#transports.length > 1,
      elapsedMs: this.#context.clock.now() - this.#beganAt,
    });
    if ("error" in decision) return this.#finish("failed", decision.error);
    if (outcome.kind === "dropped" || outcome.byTransport) this.#useOther();
    this.attempts = this.#retry.failures;
    this.retryAt = this.#context.clock.now() + decision.waitMs;
    if (!this.isOver) this.#show(this.state === "connecting" ? "connecting" : "reconnecting");
    if (decision.waitMs > 0) await this.#pause.wait(decision.waitMs, decision.isFirm);
    this.retryAt = null;
  }

  /** The next try goes over the other transport, if that can be used at all. */
  #useOther() {
    const usable = this.#transports.filter(({ isUnusable }) => !isUnusable);
    if (usable.length < this.#transports.length && usable.length > 0) this.#transports = usable;
    else this.#transports.push(this.#transports.shift());
  }

  #wake(why) {
    if (why === "away") return this.#leavePage();
    if (why === "back" && this.#away !== null) return this.#comeBack();
    this.#pause.nudge();
    if (this.#transports[0].wake(why, this.#context.clock.now() - this.#heardAt)) this.#reconnect();
  }

  /** The browser cuts the connections of a page that it puts away: better let go of them, without a word. */
  #leavePage() {
    if (this.#away !== null) return;
    this.#away = {};
    this.#away.promise = new Promise((resolve) => (this.#away.end = resolve));
    this.#connection.abort();
    this.#pause.end();
    for (const transport of this.#transports) transport.suspend?.();
  }

  #comeBack() {
    const { end } = this.#away;
    this.#away = null;
    end();
  }

  /** Now: neither the connection nor a pause is waited for. */
  #reconnect() {
    this.#isHurried = !this.#pause.isWaiting;
    if (this.state !== "connecting") this.#show("reconnecting");
    this.#connection.abort();
    this.#pause.nudge();
  }

  // -- the end -------------------------------------------------------------------------------------------------------

  async #cancel() {
    await null; // `#cancelling` is set
    this.#pause.nudge();
    // It was left before its id had come: the same Idempotency-Key leads to it.
    if (this.streamId === null && this.state === "detached" && !this.#isReading) this.#read();
    while (this.streamId === null && this.#isReading) await new Promise((resolve) => this.#once(resolve));
    if (this.streamId === null) { // it never began, unless nobody could be asked
      const error = this.error ?? this.#lost;
      if (error?.code === "UNREACHABLE") throw error;
      return;
    }
    const { clock, ways, patienceMs } = this.#context;
    await stop({
      streamId: this.streamId,
      // Those in use first, then every other one: a stop takes any way there is.
      ways: () => [...this.#transports, ...ways.filter((way) => !this.#transports.includes(way))],
      hasEnded: () => this.#answer.end !== null || this.state === "done",
      rest: async (ms) => {
        const pause = new Pause(clock);
        const over = this.subscribe(() => (this.#answer.end !== null || this.state === "done") && pause.end());
        await pause.wait(ms);
        over();
      },
      release: () => this.isOver || this.transport !== "sse" || this.#reconnect(),
      backoff: this.#backoff,
      patienceMs,
    });
  }

  #finish(state, error = null) {
    if (this.isOver) { // it was left, and read on for its id alone
      this.#lost = error;
      return;
    }
    this.error = error;
    this.#stopListening();
    this.#show(state);
    if (this.#isSettled) {
      this.#connection.abort();
      this.#pause.end();
      this.#away?.end();
    }
    this.#context.isOver(this);
    if (error !== null) this.#settle.reject(error);
    else this.#settle.resolve(state === "done" ? this.#answer.end : null);
  }

  #show(state) {
    this.state = state;
    this.#tell();
  }

  #tell() {
    for (const listener of [...this.#listeners]) {
      try {
        listener();
      } catch (error) {
        // A listener's fault must not look like a broken connection.
        queueMicrotask(() => { throw error; });
      }
    }
  }

  #once(callback) {
    const end = this.subscribe(() => { end(); callback(); });
  }
}
