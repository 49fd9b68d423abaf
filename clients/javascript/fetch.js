/**
 * One stream over SSE: a request, its answer, its end. Knows one connection only; who calls again decides that.
 *
 * @typedef {{streamId: string | null, body: object | null, idempotencyKey: string, after: number}} Request
 *   What to ask for: the stream if it has an id already, else its start.
 * @typedef {object} Reader Whom a connection tells what it brings.
 * @property {(streamId: string) => void} opened
 * @property {(id: number | null, data: object) => void} event
 * @property {(ms: number) => void} retry
 * @property {() => void} heard
 *
 * @typedef {{kind: "ended"} | {kind: "dropped", afterMs?: number, wasOpen: boolean, why?: string, cause?: unknown}
 *   | {kind: "refused", error: import("./errors.js").TokenrelayError, byTransport?: boolean}} Outcome How a connection
 *   ended: `ended` when nothing follows; `dropped` when more may follow, after `afterMs` milliseconds if the server
 *   said so (`why` for people); `byTransport`: it is the transport that will not do, so the other one may.
 */

import { NotOurs, TokenrelayError, outcomeOf, refusalOf } from "./errors.js";
import { Watchdog } from "./liveness.js";
import { SSEDecoder } from "./sse.js";

/** "A client that has heard nothing for 45 s may take the connection for dead": three heartbeats. */
export const IDLE_MS = 45_000;

/** A heartbeat is overdue: after a sleep of the machine that is reason enough to connect anew. */
const STALE_MS = 20_000;

/** The head of an answer leaves the server before the model does anything. */
export const OPEN_MS = 15_000;

/** A cancel is answered at once. */
const CANCEL_MS = 5_000;

/** A call that has waited so long may wait for one of the six connections that a browser opens with HTTP/1.1. */
const RELEASE_MS = 1_000;

export class FetchTransport {
  name = "sse";
  /** `fetch` gives no body while it comes: events cannot be read. */
  isUnusable = false;
  #api;
  #clock;

  /** @param {import("./api.js").Api} api @param {import("./backoff.js").Clock} clock */
  constructor(api, clock) {
    this.#api = api;
    this.#clock = clock;
  }

  /**
   * @param {Request} request
   * @param {Reader} reader
   * @param {AbortSignal} signal
   * @returns {Promise<Outcome>}
   */
  async read(request, reader, signal) {
    const connection = new AbortController();
    const abort = () => connection.abort();
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    const watchdog = new Watchdog(this.#clock, abort);
    let wasOpen = false;
    try {
      watchdog.set(OPEN_MS);
      const response = await this.#open(request, connection.signal);
      if (response.status === 204) return { kind: "ended" };
      if (!response.ok) throw await refusalOf(response);
      if (!isEvents(response)) throw new NotOurs("the address answered with a page, not with events"); // a portal, say
      if (typeof response.body?.getReader !== "function") return this.#unusable();
      wasOpen = true;
      reader.opened(response.headers.get("x-stream-id"));
      await this.#pump(response.body, reader, watchdog);
    } catch (error) {
      return outcomeOf(error, wasOpen);
    } finally {
      watchdog.stop();
      signal.removeEventListener("abort", abort);
      connection.abort();
    }
    return { kind: "dropped", wasOpen, why: "the connection ended" };
  }

  #unusable() {
    this.isUnusable = true;
    const message = "the `fetch` in use gives no streaming body (React Native's does not): "
      + "use the transport `websocket`, or another `fetch` (both are options)";
    return { kind: "refused", byTransport: true, error: new TokenrelayError("INVALID_REQUEST", message) };
  }

  /** Whether a connection that may be dead is given up: nothing can ask an SSE server whether it is there. */
  wake(why, silentMs) {
    return why === "online" || silentMs > STALE_MS;
  }

  /**
   * Resolves once the server knows.
   * @param {string} streamId
   * @param {() => void} [release] lets go of a connection, for this call may be waiting for one
   * @throws {TokenrelayError} or whatever `fetch` throws
   */
  async cancel(streamId, release = () => {}) {
    const connection = new AbortController();
    const watchdog = new Watchdog(this.#clock, () => {
      release();
      watchdog.onBite = () => connection.abort();
      watchdog.set(CANCEL_MS);
    });
    watchdog.set(RELEASE_MS);
    try {
      const path = `/api/streams/${encodeURIComponent(streamId)}/cancel`;
      const response = await this.#api.call("POST", path, { signal: connection.signal });
      if (!response.ok) throw await refusalOf(response);
    } finally {
      watchdog.stop();
    }
  }

  #open({ streamId, body, idempotencyKey, after }, signal) {
    if (streamId === null) {
      // JSON is named so that a refusal is plain JSON; the answer is events because the body asks for them.
      const headers = { Accept: "text/event-stream, application/json", "Idempotency-Key": idempotencyKey };
      return this.#api.call("POST", "/api/chat", { headers, body: { ...body, stream: true }, signal });
    }
    const headers = { Accept: "text/event-stream", ...(after > 0 && { "Last-Event-ID": String(after) }) };
    const path = `/api/streams/${encodeURIComponent(streamId)}`;
    return this.#api.call("GET", path, { headers, signal, takesTicket: true });
  }

  async #pump(body, reader, watchdog) {
    const decoder = new SSEDecoder();
    const chunks = body.getReader();
    let last = "";
    for (;;) {
      watchdog.set(IDLE_MS);
      const { done, value } = await chunks.read();
      if (done) return;
      reader.heard();
      const frames = decoder.feed(value);
      if (decoder.retryMs !== null) reader.retry(decoder.retryMs);
      for (const frame of frames) {
        // An id persists on a connection (WHATWG); an event has its own when it is another than the last.
        const id = frame.id !== last && /^[0-9]+$/.test(frame.id) ? Number(frame.id) : null;
        last = frame.id;
        const data = JSON.parse(frame.data);
        if (data === null || typeof data !== "object") throw new NotOurs("an event that is no object");
        reader.event(id, data);
        if (data.done) return;
      }
    }
  }
}

const isEvents = (response) => /^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "");
