/**
 * What a component shows of one answer, at most once a frame. Knows streams and a page's storage, no framework.
 *
 * @typedef {"idle" | "connecting" | "queued" | "streaming" | "reconnecting" | "done" | "failed"} Status
 * @typedef {{response: string, thinking: string, isThinking: boolean, isStreaming: boolean, status: Status,
 *   error: Error | null, tools: import("./parts.js").Tool[], data: {name: string, value: unknown}[],
 *   events: import("./answer.js").StreamEvent[], streamId: string | null}} Snapshot
 */

import { onNextFrame } from "./frames.js";
import { Memory } from "./memory.js";
import { Parts } from "./parts.js";

const STREAMING = ["connecting", "queued", "streaming", "reconnecting"];

/** Who has stopped an answer does not watch a server that cannot be reached. */
const STOP_MS = 10_000;

const NOTHING = Object.freeze({ text: "", events: [] });

/** @type {Snapshot} */
const IDLE = Object.freeze({
  response: "", thinking: "", isThinking: false, isStreaming: false, status: "idle", error: null, tools: [], data: [],
  events: [], streamId: null,
});

export class ChatView {
  #client;
  #defaults; // fields that each question has, such as `model`
  #memory; // what of the page survives a reload
  #stream = null; // null before any, and once it is not watched any more
  #origin = null; // {body, idempotencyKey, streamId}: how to come back to it; null once it is over
  #kept = NOTHING; // of the same answer, from before the component was away
  #parts = new Parts();
  #taken = 0; // events that `#parts` has
  #snapshot = IDLE;
  #listeners = new Set();
  #unsubscribe = () => {};
  #cancelFrame = null; // null while none is due
  #hasLeft = false; // it was unmounted in mid-answer
  /** The component is there no more. */
  isGone = false;

  /**
   * @param {import("./client.js").Client} client
   * @param {{body?: object, storageKey?: string, storage?: Storage}} [options]
   */
  constructor(client, { body = {}, storageKey, storage } = {}) {
    this.#client = client;
    this.#defaults = body;
    this.#memory = new Memory(storageKey, storage);
  }

  /** @param {() => void} listener */
  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** The same object until something has changed. @returns {Snapshot} */
  getSnapshot = () => this.#snapshot;

  /** All text received, also what is not shown yet. */
  get text() {
    return this.#kept.text + (this.#stream?.text ?? "");
  }

  setDefaults(body = {}) {
    this.#defaults = body;
  }

  /**
   * Asks. An earlier answer that is still written is let go of, not stopped.
   * @param {string | object} message a text, or a body as in `POST /api/chat`
   * @param {object} [more] fields beside it
   * @returns {Promise<string>} the text, once the answer is over; never rejects: see `error`
   */
  send = (message, more = {}) => {
    const asked = typeof message === "string" ? { message } : message;
    return this.#begin(() => {
      const body = { ...this.#defaults, ...asked, ...more };
      const stream = this.#client.chat(body);
      this.#origin = { body, idempotencyKey: stream.idempotencyKey };
      return stream;
    });
  };

  /** Reads a stream that is there already. @param {string} streamId @param {number} [after] */
  resume = (streamId, after = 0) =>
    this.#begin(() => {
      this.#origin = { streamId };
      return this.#client.resume(streamId, after);
    });

  /** Stops the answer for good. */
  stop = () => {
    const stream = this.#stream;
    if (stream === null || stream.isOver) return;
    // The stop stands, also once nobody watches: a stream whose start is not answered yet is stopped when it is.
    const timer = setTimeout(() => this.#leave(stream, "done", null), STOP_MS);
    stream.done.catch(() => {}).finally(() => clearTimeout(timer));
    stream.cancel().catch((error) => {
      this.#leave(stream, "failed", error);
      stream.detach();
    });
  };

  /** The component is there: goes on with what it left, or with what a reload interrupted. */
  mount() {
    this.isGone = false;
    if (this.#hasLeft) return this.#goOn();
    const saved = this.#stream === null ? this.#memory.load() : null;
    if (saved === null) return;
    void this.#begin(() => {
      this.#origin = saved;
      return this.#again(0);
    });
  }

  /** The component is gone: reads no more. The generation goes on. */
  unmount() {
    this.isGone = true;
    this.#dropFrame();
    if (this.#stream === null || this.#stream.isOver) return;
    this.#hasLeft = true;
    this.#unsubscribe();
    this.#stream.detach();
  }

  // -- one stream ----------------------------------------------------------------------------------------------------

  #begin(make) {
    this.#letGo();
    this.#hasLeft = false;
    this.#kept = NOTHING;
    this.#parts = new Parts();
    this.#taken = 0;
    this.#origin = null;
    try {
      const stream = make();
      this.#memory.save(this.#origin);
      return this.#follow(stream);
    } catch (error) {
      this.#stream = null;
      this.#memory.save(null);
      this.#publish({ ...IDLE, status: "failed", error });
      return Promise.resolve("");
    }
  }

  #goOn() {
    this.#hasLeft = false;
    this.#keep();
    this.#follow(this.#again(this.#stream.lastEventId));
  }

  /** The stream of earlier; one whose id never came is asked for by its Idempotency-Key, and not started twice. */
  #again(after) {
    const { streamId, body, idempotencyKey } = this.#origin;
    return streamId ? this.#client.resume(streamId, after) : this.#client.chat(body, { idempotencyKey });
  }

  /** Text and events outlive their stream. */
  #keep() {
    this.#kept = { text: this.text, events: this.#events };
  }

  #follow(stream) {
    this.#stream = stream;
    this.#unsubscribe = stream.subscribe(() => this.#changed(stream));
    this.#show();
    const text = () => (this.#stream === stream ? this.text : stream.text);
    return stream.done.then(text, text);
  }

  #letGo() {
    this.#unsubscribe();
    this.#dropFrame();
    this.#stream?.detach();
  }

  /** Watches no longer, but lets it run: a cancel may be under way. */
  #leave(stream, status, error) {
    if (this.#stream !== stream || stream.isOver) return;
    this.#unsubscribe();
    this.#dropFrame();
    this.#over();
    const last = { ...this.#look(), status, error, isStreaming: false };
    this.#keep();
    this.#stream = null;
    this.#publish(last);
  }

  #over() {
    this.#origin = null;
    this.#memory.save(null);
  }

  // -- what is shown -------------------------------------------------------------------------------------------------

  #changed(stream) {
    if (stream.isOver) {
      this.#over();
      return this.#show();
    }
    this.#learn(stream.streamId);
    this.#cancelFrame ??= onNextFrame(() => this.#show());
  }

  #learn(streamId) {
    if (streamId === null || this.#origin?.streamId === streamId) return;
    this.#origin = { ...this.#origin, streamId };
    this.#memory.save(this.#origin);
  }

  #show() {
    this.#dropFrame();
    this.#publish(this.#look());
  }

  #dropFrame() {
    this.#cancelFrame?.();
    this.#cancelFrame = null;
  }

  get #events() {
    return [...this.#kept.events, ...(this.#stream?.events ?? [])];
  }

  #look() {
    const { state, error, streamId } = this.#stream;
    const events = this.#events;
    const status = state === "detached" ? "idle" : state;
    const isStreaming = STREAMING.includes(status);
    for (; this.#taken < events.length; this.#taken += 1) this.#parts.take(events[this.#taken].data);
    const { thinking, tools, data } = this.#parts;
    return {
      response: this.text, thinking, isThinking: isStreaming && this.#parts.isThinking, isStreaming, status, error, tools,
      data: [...data], events, streamId,
    };
  }

  #publish(snapshot) {
    this.#snapshot = snapshot;
    for (const listener of [...this.#listeners]) listener();
  }
}
