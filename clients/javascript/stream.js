/**
 * One generation being read, over as many connections as it takes. Knows no wire: transports do, and `Answer` keeps.
 *
 * @typedef {"connecting" | "queued" | "streaming" | "reconnecting" | "done" | "failed" | "detached"} State
 */

import { Answer } from "./answer.js";
import { Backoff, Pause, isOffline, onWake } from "./backoff.js";
import { errorOf } from "./errors.js";
import { Patience } from "./patience.js";

export class Stream {
  #answer;
  #request; // {body, idempotencyKey}; body null for a stream that is resumed
  #transports; // in the order in which they are tried
  #context; // {clock, page, patienceMs, isOver(stream)}
  #backoff;
  #patience;
  #pause;
  #connection = new AbortController(); // of the connection under way
  #isHurried = false; // it was ended by us, to open another at once
  #heardAt;
  #wantsStop = false;
  #cancelling = null; // the promise of a cancel under way
  #listeners = new Set();
  #stopListening;
  #settle;

  /** @type {State} */
  state = "connecting";
  /** Null until the server has said it. @type {string | null} */
  streamId;
  /** Why it failed; null unless `state` is `failed`. @type {import("./errors.js").TokenrelayError | null} */
  error = null;
  /** The completion event's object; null where it is not read to the end. @type {Promise<object | null>} */
  done;

  /** Made by a client: `client.chat`, `client.resume`. */
  constructor({ body, streamId, after, idempotencyKey, transports }, context) {
    this.#answer = new Answer(after);
    this.#request = { body, idempotencyKey };
    this.#transports = transports;
    this.#context = context;
    this.#backoff = new Backoff(context.clock.random);
    this.#patience = new Patience(this.#backoff, context.patienceMs);
    this.#pause = new Pause(context.clock);
    this.#heardAt = context.clock.now();
    this.streamId = streamId;
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.done.catch(() => {}); // who does not look at it reads `state`, or iterates
    this.#stopListening = onWake(context.page, (why) => this.#wake(why));
    // Whatever a transport does that it must not: a stream ends, and never hangs.
    this.#run().catch((error) => this.isOver || this.#finish("failed", error));
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

  /** Stops the generation for good, for all who read it. Resolves once the server knows. @throws {TokenrelayError} */
  cancel() {
    this.#cancelling ??= this.#cancel().finally(() => (this.#cancelling = null));
    return this.#cancelling;
  }

  /** Stops reading; the generation goes on and can be resumed. */
  detach() {
    if (!this.isOver) this.#finish("detached");
  }

  /** Goes on over another transport, from the same cursor. @param {"sse" | "websocket"} name */
  use(name) {
    if (this.isOver || this.transport === name) return;
    this.#transports = [this.#context.transportNamed(name)];
    this.#reconnect();
  }

  // -- reading -------------------------------------------------------------------------------------------------------

  async #run() {
    await null; // who made it can subscribe first
    while (!this.isOver) {
      const { signal } = (this.#connection = new AbortController());
      const before = this.events.length;
      const outcome = await this.#transports[0].read(this.#asked, this.#reader(signal), signal);
      if (this.isOver) break;
      if (outcome.kind === "ended") return this.#finish("done");
      if (this.events.length > before) this.#patience.reset();
      await this.#between(outcome);
    }
  }

  get #asked() {
    return { ...this.#request, streamId: this.streamId, after: this.lastEventId };
  }

  /** What a connection tells; one that has been given up tells nothing any more. */
  #reader(signal) {
    const ifCurrent = (tell) => (...facts) => signal.aborted || this.isOver || tell(...facts);
    return {
      opened: ifCurrent((streamId) => this.#opened(streamId)),
      event: ifCurrent((id, data) => this.#take(id, data)),
      retry: ifCurrent((ms) => this.#backoff.advise(ms)),
      heard: ifCurrent(() => (this.#heardAt = this.#context.clock.now())),
    };
  }

  #opened(streamId) {
    this.#heardAt = this.#context.clock.now();
    this.streamId ??= streamId;
    this.#show(this.#answer.hasStarted ? "streaming" : "queued");
  }

  #take(id, data) {
    if (!this.#answer.take(id, data)) return;
    this.streamId ??= data.stream_id ?? null; // the header may be hidden from a page of another origin
    const { end } = this.#answer;
    if (end === null) this.#show(this.#answer.hasStarted ? "streaming" : "queued");
    else this.#finish(end.error_code === undefined ? "done" : "failed", end.error_code && errorOf(end));
  }

  /** After a connection that was not the last. */
  async #between(outcome) {
    if (this.#isHurried) return void (this.#isHurried = false);
    if (this.#wantsStop && this.streamId === null && outcome.kind === "refused") return this.#finish("done");
    const offline = isOffline(this.#context.page);
    const decision = this.#patience.after(outcome, {
      hasId: this.streamId !== null,
      isCursorOurs: this.#answer.isCursorOurs,
      isOffline: offline,
      hasOther: this.#transports.length > 1,
    });
    if ("error" in decision) return this.#finish("failed", decision.error);
    if (outcome.kind === "dropped" || outcome.byClose) this.#transports.push(this.#transports.shift());
    if (this.state !== "connecting") this.#show("reconnecting");
    if (decision.waitMs > 0) await this.#pause.wait(decision.waitMs, decision.isFirm);
  }

  #wake(why) {
    this.#pause.nudge();
    if (this.#transports[0].wake(why, this.#context.clock.now() - this.#heardAt)) this.#reconnect();
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
    this.#wantsStop = true;
    this.#pause.nudge();
    while (this.streamId === null && !this.isOver) await new Promise((resolve) => this.#once(resolve));
    const pause = new Pause(this.#context.clock);
    for (let failures = 0; this.#canBeStopped; failures += 1) {
      try {
        return await this.#transports[failures % this.#transports.length].cancel(this.streamId);
      } catch (error) {
        if (error?.name === "TokenrelayError" && !error.retryable) throw error;
      }
      const over = this.subscribe(() => this.isOver && pause.end());
      await pause.wait(this.#backoff.delayMs(failures));
      over();
    }
  }

  get #canBeStopped() {
    return this.streamId !== null && this.state !== "done" && this.state !== "failed";
  }

  #finish(state, error = null) {
    this.error = error;
    this.#stopListening();
    this.#show(state);
    this.#connection.abort();
    this.#pause.end();
    this.#context.isOver(this);
    if (error !== null) this.#settle.reject(error);
    else this.#settle.resolve(state === "done" ? this.#answer.end : null);
  }

  #show(state) {
    this.state = state;
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
