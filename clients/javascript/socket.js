/**
 * One WebSocket that carries many streams. Knows the messages of protocol/README.md, section 5; decides no retry.
 */

import { Attachment } from "./attachment.js";
import { FINAL_CLOSES, errorOf, outcomeOf, wordsOf } from "./errors.js";
import { Heartbeat, Watchdog } from "./liveness.js";

const SUBPROTOCOL = "tokenrelay.v1.json";

/** "256 streams can be attached to one socket." */
export const MAX_STREAMS = 256;

const OPEN_MS = 5_000;

/** Open is not usable: some middleboxes pass the handshake and then no frame. The server answers a start at once. */
const FIRST_WORD_MS = 5_000;

/** For `started` on a socket that has been heard already: a start may wait for Redis. */
const ANSWER_MS = 15_000;

/** "The socket closes next": one that stays open is closed by us. */
const RETIRE_MS = 5_000;

/** An idle socket stays a moment for the next question. */
const LINGER_MS = 2_000;

const OPEN = 1; // WebSocket.OPEN, also of an injected class that does not name it

export class Socket {
  #gone; // told once, when nothing can be asked of this socket any more
  #socket = null; // null until its address is known
  #opening = new AbortController();
  #waiting = []; // messages said before it was open
  #asked = new Map(); // ref → Attachment, until `started`
  #attached = new Map(); // stream id → Attachment
  #questions = new Map(); // ref → {resolve, reject} of a cancel
  #orphans = new Map(); // ref → idempotency key of a start that was let go of before its answer
  #refs = 0;
  #afterMs; // the server's advice for after the close; undefined without one
  #heartbeat;
  #opens; // Watchdogs: what may last only so long
  #lingers;
  #retires;
  #clock;
  #hasHeard = false; // a frame has come
  #isGone = false;
  #why = "the socket did not open"; // or what happened to it since
  #cause;

  /**
   * @param {(signal: AbortSignal) => Promise<string>} address
   * @param {typeof WebSocket} WebSocket
   * @param {import("./backoff.js").Clock} clock
   * @param {(hasHeard: boolean) => void} gone
   */
  constructor(address, WebSocket, clock, gone) {
    this.#gone = gone;
    this.#clock = clock;
    this.#heartbeat = new Heartbeat(clock, () => this.#say({ type: "ping" }), () => this.#lose());
    [this.#opens, this.#lingers, this.#retires] = [0, 1, 2].map(() => new Watchdog(clock, () => this.#lose()));
    this.#opens.set(OPEN_MS);
    address(this.#opening.signal).then(
      (url) => !this.#isGone && this.#connect(new WebSocket(url, [SUBPROTOCOL])),
      (error) => this.#lose(outcomeOf(error, false)),
    ).catch((error) => this.#lose(outcomeOf(error, false)));
  }

  /** New streams may go on it. */
  get isUsable() {
    return !this.#isGone && this.#afterMs === undefined;
  }

  get #all() {
    return [...this.#asked.values(), ...this.#attached.values()];
  }

  /** Room for another stream, and none here that the server would take for the same. */
  hasRoomFor({ streamId, idempotencyKey }) {
    const all = this.#all;
    const isFree = !all.some((attachment) => attachment.isOf(streamId, idempotencyKey));
    return this.isUsable && all.length < MAX_STREAMS && isFree;
  }

  carries(streamId) {
    return !this.#isGone && this.#attached.has(streamId);
  }

  /** @returns {Promise<import("./fetch.js").Outcome>} */
  read(request, reader, signal) {
    return new Promise((resolve) => {
      const answers = new Watchdog(this.#clock, () => this.#isUnanswered(attachment));
      const settle = (outcome) => {
        answers.stop();
        signal.removeEventListener("abort", abort);
        this.#forget(attachment);
        resolve(outcome);
      };
      const attachment = new Attachment(this.#newRef(), request, reader, settle);
      const abort = () => this.#letGo(attachment);
      signal.addEventListener("abort", abort);
      answers.set(ANSWER_MS);
      this.#lingers.stop();
      this.#asked.set(attachment.ref, attachment);
      this.#say(attachment.message);
      if (signal.aborted) abort();
    });
  }

  /** Its reader asks elsewhere. */
  #isUnanswered(attachment) {
    if (!attachment.wasOpen) this.#letGo(attachment, "the socket gave no answer in time");
  }

  /** Resolves once the server has obeyed: it takes messages in order, so the pong comes after. */
  cancel(streamId) {
    return new Promise((resolve, reject) => {
      const ref = this.#newRef();
      this.#questions.set(ref, { resolve, reject });
      this.#lingers.stop();
      this.#say({ type: "cancel", ref, stream_id: streamId });
      this.#say({ type: "ping", ref });
    });
  }

  /** The machine or the network woke up: the connection proves itself, or goes. */
  probe() {
    if (this.#socket?.readyState === OPEN) this.#heartbeat.probe();
  }

  /** The client is done. */
  close() {
    this.#lose();
  }

  #newRef() {
    this.#refs += 1;
    return this.#refs;
  }

  // -- the connection ------------------------------------------------------------------------------------------------

  #connect(socket) {
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => !this.#isGone && this.#hearFrame(data);
    socket.onclose = ({ code }) => this.#closed(code);
    socket.onerror = (event) => { // a close follows; Node.js says here what went wrong
      this.#cause = event?.error ?? event?.message;
      if (this.#cause) this.#why = wordsOf(this.#cause);
    };
  }

  #opened() {
    if (this.#isGone) return;
    this.#why = "the socket opened, and no word came over it";
    this.#opens.set(FIRST_WORD_MS);
    for (const message of this.#waiting.splice(0)) this.#say(message);
    this.#heartbeat.start();
  }

  #say(message) {
    if (this.#socket?.readyState === OPEN) this.#socket.send(JSON.stringify(message));
    else this.#waiting.push(message);
  }

  /** "A client comes back and resumes after every close but" these. */
  #closed(code) {
    if (this.#cause === undefined) this.#why = `the socket was closed (${code})`;
    const final = FINAL_CLOSES[code];
    if (final === undefined) return this.#lose();
    const error = errorOf({ error_code: final, error: `the server closed the socket (${code})`, retryable: false });
    if (code === 1009) this.#settleTooBig(error);
    this.#lose(code === 1009 ? undefined : { kind: "refused", error, byTransport: true });
  }

  /** One question too large ends the socket of all: the largest that was not answered is to blame. */
  #settleTooBig(error) {
    const [largest] = [...this.#asked.values()].sort((one, other) => other.size - one.size);
    largest?.settle({ kind: "refused", error, byTransport: true }); // a proxy's limit may be lower than the server's
  }

  #lose(outcome) {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#opening.abort();
    for (const timer of [this.#heartbeat, this.#opens, this.#lingers, this.#retires]) timer.stop();
    this.#gone(this.#hasHeard);
    const dropped = { kind: "dropped", afterMs: this.#afterMs, why: this.#why, cause: this.#cause };
    for (const { settle, wasOpen } of this.#all) settle(outcome ?? { ...dropped, wasOpen });
    for (const { reject } of this.#questions.values()) reject(outcome?.error ?? new Error("the connection is gone"));
    this.#socket?.close(1000);
  }

  // -- what the server says ------------------------------------------------------------------------------------------

  #hearFrame(frame) {
    this.#heartbeat.heard();
    this.#opens.stop();
    this.#hasHeard = true;
    this.#why = "the socket is gone";
    let messages;
    try {
      messages = [JSON.parse(frame)].flat();
    } catch {
      return this.#lose(); // nothing that such a server says can be trusted
    }
    for (const message of messages) this.#hear(message);
  }

  #hear(message) {
    switch (message?.type) {
      case "started":
        return this.#started(message);
      case "event":
        return this.#event(message);
      case "error":
        return this.#error(message);
      case "pong":
        this.#questions.get(message.ref)?.resolve();
        this.#questions.delete(message.ref);
        return this.#lingerIfIdle();
      case "reconnect":
        this.#afterMs = Number(message.after_ms) || 0; // from now on no new stream goes on it
        return this.#retires.set(RETIRE_MS);
      default: // "must pass over messages it does not know"
    }
  }

  #started({ ref, stream_id: streamId, done }) {
    const attachment = this.#asked.get(ref);
    if (attachment === undefined) return this.#dropOrphan(ref, streamId);
    // The same Idempotency-Key led to a stream that another reader has here: the server let go of that one.
    this.#attached.get(streamId)?.settle({ kind: "dropped", wasOpen: true });
    this.#asked.delete(ref);
    attachment.streamId = streamId;
    attachment.wasOpen = true;
    this.#attached.set(streamId, attachment);
    attachment.reader.opened(streamId);
    if (done) attachment.settle({ kind: "ended" });
  }

  #dropOrphan(ref, streamId) {
    const key = this.#orphans.get(ref);
    const isWanted = this.#all.some((attachment) => attachment.isOf(streamId, key));
    if (key !== undefined && !isWanted) this.#say({ type: "detach", stream_id: streamId });
    this.#orphans.delete(ref);
  }

  /** Events of a stream whose `started` has not come belong to an earlier attachment, with another cursor. */
  #event({ stream_id: streamId, id, data }) {
    const attachment = this.#attached.get(streamId);
    if (attachment === undefined || data === null || typeof data !== "object") return;
    attachment.reader.heard();
    attachment.reader.event(typeof id === "number" ? id : null, data);
    if (data.done) attachment.settle({ kind: "ended" });
  }

  #error(message) {
    const { ref, stream_id: streamId } = message;
    const error = errorOf(message);
    this.#questions.get(ref)?.reject(error);
    this.#questions.delete(ref);
    const attachment = this.#asked.get(ref) ?? (ref === null ? this.#attached.get(streamId) : undefined);
    attachment?.settle({ kind: "refused", error });
    this.#orphans.delete(ref);
  }

  // -- letting go ----------------------------------------------------------------------------------------------------

  #letGo(attachment, why) {
    const { ref, request, streamId, wasOpen, settle } = attachment;
    this.#waiting = this.#waiting.filter((message) => message.ref !== ref);
    if (streamId !== null) this.#say({ type: "detach", stream_id: streamId });
    else this.#orphans.set(ref, request.idempotencyKey);
    settle({ kind: "dropped", wasOpen, why });
  }

  #forget(attachment) {
    this.#asked.delete(attachment.ref);
    if (this.#attached.get(attachment.streamId) === attachment) this.#attached.delete(attachment.streamId);
    this.#lingerIfIdle();
  }

  #lingerIfIdle() {
    if (this.#isGone || this.#all.length > 0 || this.#questions.size > 0) return;
    this.#lingers.set(LINGER_MS);
  }
}
