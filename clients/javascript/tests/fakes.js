// A server that speaks the wire exactly and fails on command, and a clock that does not wait. For tests only.

const utf8 = new TextEncoder();
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Time stands still until nothing else happens, and then jumps to the next timer. */
export class FakeClock {
  #now = 0;
  #timers = new Map();
  #next = 1;
  waits = []; // every delay asked for, in ms

  now = () => this.#now;
  random = () => 0.5;

  setTimeout = (callback, ms) => {
    this.#timers.set(this.#next, { at: this.#now + ms, callback });
    this.waits.push(ms);
    return this.#next++;
  };

  clearTimeout = (timer) => this.#timers.delete(timer);

  jump() {
    const [first] = [...this.#timers].sort(([, one], [, other]) => one.at - other.at);
    if (first === undefined) return false;
    const [timer, { at, callback }] = first;
    this.#timers.delete(timer);
    this.#now = at;
    callback();
    return true;
  }

  /** Lets things happen without any time passing. */
  async rest() {
    for (let count = 0; count < 4; count += 1) await turn();
  }

  /** Until `promise` is settled, in as much of this time as it takes. */
  async until(promise) {
    let isOver = false;
    const over = () => { isOver = true; };
    promise.then(over, over);
    for (let count = 0; count < 5_000; count += 1) {
      await this.rest();
      if (isOver) return promise;
      if (!this.jump()) throw new Error(`nothing will ever happen any more, after ${this.#now} ms`);
    }
    throw new Error("it never ends");
  }

  async advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      await this.rest();
      const due = [...this.#timers.values()].some(({ at }) => at <= end);
      if (!due) break;
      this.jump();
    }
    this.#now = end;
  }
}

/** A browser's window, document and navigator. */
export function fakePage() {
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  return { window: new EventTarget(), document, navigator: { onLine: true } };
}

export const STREAM_ID = "5f0c6f9e2d5b4c0f8a4be1d1a9d7c3e2";

/** The log of an answer: `started`, a token each, the end. */
export function logOf(tokens, end = {}) {
  const events = [
    { token: "", done: false, status: "started", model: "m" },
    ...tokens.map((token) => (typeof token === "string" ? { token, done: false, model: "m" } : token)),
    { token: "", done: true, finish_reason: "stop", output_tokens: tokens.length, stream_id: STREAM_ID, ...end },
  ];
  return events.map((data, index) => ({ id: index + 1, data }));
}

/** ASCII, as on the wire. */
const json = (value) =>
  JSON.stringify(value).replace(/[\u0080-\uffff]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });

const frameOf = ({ id, data }) => `${id === null ? "" : `id: ${id}\n`}data: ${json(data)}\n\n`;

/** Compact replay: consecutive tokens of the backlog as one, with the id of the last. */
function joined(log) {
  const events = [];
  for (const event of log) {
    const last = events.at(-1);
    if (last?.data.token && event.data.token) {
      events[events.length - 1] = { id: event.id, data: { ...event.data, token: last.data.token + event.data.token } };
    } else events.push(event);
  }
  return events;
}

/**
 * One answer on one server. `fates` says what becomes of the connections, one after another (the last one holds on):
 * `{cut, how}` after so many bytes or messages `end`, `error`, `hang` or a close code; `refuse: {status, body}`;
 * `chunk`: bytes a read; `repeat`: each event twice; `raw`: characters not escaped; `compact`: joined replay.
 */
export class FakeEdge {
  calls = [];
  keys = new Set(); // Idempotency-Keys of starts: as many as there are generations
  cancels = 0;
  detaches = [];
  sockets = [];

  constructor(tokens, { fates = [{}], end, retry = 1000, log = logOf(tokens, end) } = {}) {
    Object.assign(this, { log, fates, retry });
    this.text = log.map(({ data }) => data.token).join("");
    const edge = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url, protocols) {
        super(edge, url, protocols);
      }
    };
  }

  #fate() {
    return this.fates.length > 1 ? this.fates.shift() : this.fates[0];
  }

  nextFate = () => this.#fate();

  fetch = async (url, { method, headers, body, signal }) => {
    const { pathname, search } = new URL(url);
    const call = { method, path: pathname, search, headers: new Headers(headers), body: body && JSON.parse(body) };
    this.calls.push(call);
    if (pathname.endsWith("/cancel")) {
      this.cancels += 1;
      return this.cancelRefusal ?? answer(200, { stream_id: STREAM_ID, state: "cancelling" });
    }
    if (pathname === "/api/tickets") return this.ticketRefusal ?? answer(200, { ticket: "t1", expires_in: 60 });
    const fate = this.#fate();
    if (fate.unreachable) throw new TypeError("fetch failed");
    if (fate.refuse) return answer(fate.refuse.status, fate.refuse.body ?? {}, fate.refuse.headers);
    if (method === "POST") this.keys.add(call.headers.get("idempotency-key"));
    const after = Number(call.headers.get("last-event-id") ?? 0);
    if (after === this.log.length) return { status: 204, ok: true, headers: new Headers() };
    const bytes = this.#bytes(method === "POST", after, fate);
    const head = { "content-type": "text/event-stream", ...(!fate.hideId && { "x-stream-id": STREAM_ID }) };
    return { status: 200, ok: true, headers: new Headers(head), body: bodyOf(bytes, fate, signal) };
  };

  #bytes(isStart, after, { repeat, compact, raw }) {
    let events = this.log.slice(after);
    if (compact) events = joined(events);
    const accepted = { token: "", done: false, status: "queued", stream_id: STREAM_ID, model: "m" };
    const frames = [`retry: ${this.retry}\n\n`, ...(isStart ? [frameOf({ id: null, data: accepted })] : [])];
    for (const event of events) {
      const frame = raw ? `id: ${event.id}\ndata: ${JSON.stringify(event.data)}\n\n` : frameOf(event);
      frames.push(frame, ...(repeat && !event.data.done ? [frame, ": hb\n\n"] : []));
    }
    return utf8.encode(frames.join(""));
  }
}

export const answer = (status, body, headers = {}) =>
  ({
    status, ok: status < 300, headers: new Headers(headers),
    json: async () => (typeof body === "string" ? JSON.parse(body) : body),
  });

/** A response's body, in pieces, up to its fate. */
function bodyOf(bytes, { cut = bytes.length, how = "end", chunk = bytes.length }, signal) {
  let at = 0;
  const aborted = new Promise((_, reject) =>
    signal?.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError"))));
  aborted.catch(() => {});
  const read = async () => {
    if (at < cut) {
      const value = bytes.subarray(at, Math.min(at + chunk, cut));
      at += value.length;
      return { done: false, value };
    }
    if (how === "error") throw new TypeError("network error");
    if (how === "hang") await aborted;
    return { done: true };
  };
  return { getReader: () => ({ read: () => Promise.race([read(), aborted]) }) };
}

/** The server's side and the browser's in one. */
class FakeSocket {
  readyState = 0;
  #edge;
  #fate;
  #sent = 0; // messages to the client

  constructor(edge, url, protocols) {
    this.#edge = edge;
    this.#fate = edge.nextFate();
    this.url = url;
    this.protocols = protocols;
    this.heard = [];
    edge.sockets.push(this);
    queueMicrotask(() => this.#open());
  }

  #open() {
    if (this.#fate.unreachable) return this.drop(1006);
    if (this.readyState !== 0 || this.#fate.neverOpens) return;
    this.readyState = 1;
    this.onopen();
  }

  drop(code) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    queueMicrotask(() => this.onclose({ code }));
  }

  close() {
    this.drop(1000);
  }

  send(frame) {
    if (this.readyState !== 1) throw new Error("not open");
    for (const message of [JSON.parse(frame)].flat()) {
      this.heard.push(message);
      queueMicrotask(() => this.#obey(message));
    }
  }

  /** To the client: one message, or several in one frame. */
  say(...messages) {
    const { cut = Infinity, how } = this.#fate;
    for (const batch of this.#fate.inArrays ? [messages] : messages) {
      if (this.readyState !== 1) return;
      if (this.#sent >= cut) return how === "hang" ? undefined : this.drop(how ?? 1006);
      this.#sent += 1;
      const data = JSON.stringify(batch);
      queueMicrotask(() => this.readyState === 1 && this.onmessage({ data }));
    }
    if (this.#sent >= cut && how !== "hang") queueMicrotask(() => this.drop(how ?? 1006));
  }

  #obey(message) {
    if (this.readyState !== 1) return;
    const edge = this.#edge;
    const { type, ref = null, stream_id: id = STREAM_ID } = message;
    if (this.#fate.refuse && (type === "start" || type === "resume")) {
      return this.say({ type: "error", ref, ...this.#fate.refuse.body });
    }
    switch (type) {
      case "start":
        edge.keys.add(message.idempotency_key);
        return this.#attach(ref, edge.idOf?.(message) ?? STREAM_ID, 0);
      case "resume":
        if (message.after === edge.log.length) return this.say({ type: "started", ref, stream_id: id, done: true });
        return this.#attach(ref, id, message.after);
      case "cancel":
        edge.cancels += 1;
        return;
      case "detach":
        return edge.detaches.push(id);
      case "ping":
        if (this.#fate.how !== "hang" || this.#sent < this.#fate.cut) this.say({ type: "pong", ref });
    }
  }

  #attach(ref, streamId, after) {
    const { repeat, compact, late } = this.#fate;
    let log = this.#edge.log.slice(after);
    if (compact) log = joined(log);
    const events = log.flatMap(({ id, data }) => {
      const message = { type: "event", stream_id: streamId, id, data };
      return repeat ? [message, message] : [message];
    });
    const stale = (late ?? []).map((id) => ({ type: "event", stream_id: streamId, ...this.#edge.log[id - 1] }));
    this.say(...stale, { type: "started", ref, stream_id: streamId }, { type: "news", of: "tomorrow" }, ...events);
  }
}
