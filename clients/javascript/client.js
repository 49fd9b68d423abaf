/**
 * Tokenrelay's client: makes streams, and gives them what they share. Knows no wire and no state of a stream.
 */

import { cursorOf } from "./answer.js";
import { Api } from "./api.js";
import { SYSTEM_CLOCK, pageOfBrowser } from "./backoff.js";
import { TokenrelayError } from "./errors.js";
import { FetchTransport } from "./fetch.js";
import { SocketTransport } from "./sockets.js";
import { Stream } from "./stream.js";

export { TokenrelayError } from "./errors.js";

/** How long, in waits added up, a server is looked for that cannot be reached. */
const PATIENCE_MS = 5 * 60_000;

/** The same for one that has never answered: the address is probably wrong. */
const FIRST_PATIENCE_MS = 8_000;

export class Client {
  #api;
  #context;
  #preferred;
  #sse;
  #socket; // null where there is no WebSocket
  #streams = new Set(); // not over
  #stops = new Set(); // promises of stops that the server does not know yet
  #firstPatienceMs;
  #isClosing = false;

  /** @param {import("./client.js").ClientOptions} [options] described in README.md and client.d.ts */
  constructor({
    url, key, ticket, transport = "auto", patienceMs = PATIENCE_MS, firstPatienceMs,
    fetch = globalThis.fetch, WebSocket = globalThis.WebSocket, clock = SYSTEM_CLOCK, page = pageOfBrowser(),
  } = {}) {
    this.#api = new Api({ url, key, ticket, fetch: (...call) => fetch(...call) }); // `fetch` wants no `this`
    this.#sse = new FetchTransport(this.#api, clock);
    this.#socket = WebSocket ? new SocketTransport(this.#api, WebSocket, clock) : null;
    this.#preferred = transport;
    // The page's own server has answered with the page; who sets a time means it.
    const isKnown = this.#api.isOfPage || patienceMs !== PATIENCE_MS;
    this.#firstPatienceMs = firstPatienceMs ?? (isKnown ? patienceMs : FIRST_PATIENCE_MS);
    this.#context = {
      clock, page, patienceMs,
      hint: this.#api.hint,
      ways: [this.#socket, this.#sse].filter((way) => way !== null), // by which a stop may go
      keep: (stopping) => this.#keep(stopping),
      transportNamed: (name) => this.#transport(name),
      isOver: (stream) => this.#streams.delete(stream),
    };
    this.#transports(transport, true); // a wrong name is said here, not at the first question
  }

  /**
   * Starts a generation, once, however often the request has to be sent.
   * @param {string | object} body as in `POST /api/chat`; a string is its `message`
   * @param {{transport?: string, idempotencyKey?: string}} [options]
   */
  chat(body, { transport = this.#preferred, idempotencyKey } = {}) {
    return this.#add({
      // One that was asked before knows that there was a server.
      firstPatienceMs: idempotencyKey === undefined ? this.#firstPatienceMs : this.#context.patienceMs,
      // A copy of what JSON makes of it: what cannot be sent is the caller's fault, and is said here and now.
      body: typeof body === "string" ? { message: body } : JSON.parse(JSON.stringify(body)),
      streamId: null, after: 0, idempotencyKey: idempotencyKey ?? newKey(),
      transports: this.#transports(transport, true),
    });
  }

  /**
   * Reads a generation that is there already.
   * @param {string} streamId
   * @param {number | string} [after] id of the last event that is known; 0: from the start
   * @param {{transport?: string}} [options]
   * @throws {TokenrelayError} INVALID_CURSOR
   */
  resume(streamId, after = 0, { transport = this.#preferred } = {}) {
    const cursor = cursorOf(after);
    const transports = this.#transports(transport, false);
    return this.#add({ body: null, streamId, after: cursor, idempotencyKey: newKey(), transports });
  }

  /** Lets go of every stream and every socket; no generation is stopped, but stops that were asked for are told. */
  close() {
    this.#isClosing = true;
    for (const stream of [...this.#streams]) stream.detach();
    this.#closeSockets();
  }

  #closeSockets() {
    if (this.#isClosing && this.#stops.size === 0) this.#socket?.close();
  }

  /** A stop outlives its stream's reader. */
  #keep(stopping) {
    this.#stops.add(stopping);
    stopping.catch(() => {}).finally(() => {
      this.#stops.delete(stopping);
      this.#closeSockets();
    });
  }

  #add(what) {
    const stream = new Stream(what, this.#context);
    this.#streams.add(stream);
    return stream;
  }

  /** Those that may be used, the one to try first before the other. */
  #transports(name, isStart) {
    if (name !== "auto") return [this.#transport(name)];
    if (this.#socket === null) return [this.#sse];
    // A start over HTTP wants a key in a header; a ticket opens the socket only.
    if (isStart && this.#api.hasOnlyTicket) return [this.#socket];
    if (this.#sse.isUnusable) return [this.#socket];
    return this.#socket.isDoubtful ? [this.#sse, this.#socket] : [this.#socket, this.#sse];
  }

  #transport(name) {
    if (name === "sse") return this.#sse;
    if (name === "websocket" && this.#socket !== null) return this.#socket;
    const isKnown = name === "websocket";
    const what = isKnown ? "there is no WebSocket here; give the option `WebSocket`" : `there is no transport ${name}`;
    throw new TokenrelayError("INVALID_REQUEST", what);
  }
}

/** @param {import("./client.js").ClientOptions} [options] */
export const createClient = (options) => new Client(options);

/** One question to a client of its own. Its options are those of `createClient` and of `client.chat`. */
export const chat = (body, options = {}) => new Client(options).chat(body, options);

/** One stream of a client of its own. */
export const resume = (streamId, after = 0, options = {}) => new Client(options).resume(streamId, after, options);

/** 128 bits. `randomUUID` is there on secure origins only, and a server may well be reached by plain HTTP. */
function newKey() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
