/**
 * HTTP calls to one server: its address, who is asking. Knows no stream.
 *
 * @typedef {string | (() => string | Promise<string>)} Secret A function is asked anew for every connection.
 */

import { TokenrelayError, refusalOf } from "./errors.js";

export class Api {
  #url;
  #key;
  #ticket;
  #fetch;

  /** @param {{url?: string, key?: Secret, ticket?: Secret, fetch: typeof fetch}} options */
  constructor({ url, key, ticket, fetch }) {
    this.#url = (url ?? fromEnvironment("TOKENRELAY_URL") ?? "").replace(/\/+$/, "");
    const known = ticket === undefined ? fromEnvironment("TOKENRELAY_API_KEY", "TOKENRELAY_KEY") : undefined;
    this.#key = key ?? known;
    this.#ticket = ticket;
    this.#fetch = fetch;
  }

  /** A ticket was given and no key: what needs a header cannot be called. */
  get hasOnlyTicket() {
    return this.#ticket !== undefined && this.#key === undefined;
  }

  /** The server of the page itself, which has answered with the page already. */
  get isOfPage() {
    return !/^[a-z][a-z0-9+.-]*:/i.test(this.#url) && globalThis.location !== undefined;
  }

  /** What to look at when no server has ever answered. */
  get hint() {
    const { origin } = globalThis.location ?? {};
    const target = URL.canParse?.(this.#url) ? new URL(this.#url).origin : origin;
    const page = origin !== undefined && origin !== target
      ? ` It must name a page of ${origin} in its TOKENRELAY_ALLOWED_ORIGINS.` : "";
    const setting = origin === undefined ? "the option `url`, TOKENRELAY_URL" : "the option `url`";
    return `. Is ${this.#url || origin} the server's address (${setting})?${page}`;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{headers?: Record<string, string>, body?: object, signal?: AbortSignal, takesTicket?: boolean}} [call]
   * @returns {Promise<Response>}
   * @throws {TokenrelayError} what no second try can mend: the address, the key, the call itself
   */
  async call(method, path, { headers = {}, body, signal, takesTicket = false } = {}) {
    const address = this.#address(path);
    const key = await valueOf("key", this.#key);
    if (takesTicket && this.hasOnlyTicket) address.searchParams.set("ticket", await valueOf("ticket", this.#ticket));
    const options = {
      method,
      headers: {
        ...headers,
        ...(key && { Authorization: `Bearer ${key}` }),
        ...(body && { "Content-Type": "application/json" }),
      },
      ...(body && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
      cache: "no-store",
    };
    check(address, options);
    return this.#fetch(address.href, options);
  }

  /**
   * Where the socket is. A browser cannot send a header with a WebSocket, so a key is changed for a ticket first.
   * @param {AbortSignal} signal
   * @returns {Promise<string>}
   * @throws {TokenrelayError} when the key is refused
   */
  async socketUrl(signal) {
    const address = this.#address("/api/ws");
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const ticket = this.hasOnlyTicket
      ? await valueOf("ticket", this.#ticket)
      : this.#key && (await this.#newTicket(signal));
    if (ticket) address.searchParams.set("ticket", ticket);
    return address.href;
  }

  /** Of a relative one the page's server is meant; where there is no page that is nobody's. */
  #address(path) {
    let address = null;
    try {
      address = new URL(this.#url + path, globalThis.location?.href);
    } catch { /* said below */ }
    const isBare = /^https?:\/*$/i.test(this.#url); // `new URL` would take the path for the host
    if (address?.username || address?.password) {
      throw new TokenrelayError("INVALID_REQUEST", "the option `url` must not hold a user or a password: no call takes them");
    }
    if (address !== null && !isBare && /^https?:$/.test(address.protocol)) return address;
    const given = this.#url.replace(/\/\/[^/]*@/, "//…@").slice(0, 80) || "(none given)";
    throw new TokenrelayError("INVALID_REQUEST", `the option \`url\` is no address of HTTP: ${given}`);
  }

  async #newTicket(signal) {
    const response = await this.call("POST", "/api/tickets", { signal });
    if (!response.ok) throw await refusalOf(response);
    return (await response.json()).ticket;
  }
}

/** A key or a ticket that can be sent. @throws {TokenrelayError} its function failed, or no header can hold it */
async function valueOf(name, secret) {
  let value = secret;
  if (typeof secret === "function") {
    try {
      value = await secret();
    } catch (cause) {
      const message = `the option \`${name}\` is a function, and it failed: ${cause?.message ?? cause}`;
      throw new TokenrelayError("INVALID_REQUEST", message, { cause });
    }
  }
  if (value === undefined || value === null || value === "") return undefined;
  const at = typeof value === "string" ? value.search(/[^\x20-\x7e]/) : 0;
  if (typeof value === "string" && at < 0) return value;
  // What is wrong with it, without showing it.
  const fault = typeof value === "string"
    ? `character ${at + 1} is U+${value.charCodeAt(at).toString(16).toUpperCase().padStart(4, "0")}`
    : `it is no string but ${typeof value}`;
  throw new TokenrelayError("INVALID_REQUEST", `the option \`${name}\` cannot be sent: ${fault}`);
}

/** A TypeError of the request itself is the caller's; that of a connection looks alike in a browser. */
function check(address, options) {
  try {
    if (typeof Request === "function") void new Request(address.href, options);
  } catch (cause) {
    throw new TokenrelayError("INVALID_REQUEST", `this call cannot be made: ${cause.message}`, { cause });
  }
}

/** In Node.js only: what a page's bundle took from there nobody asked for. */
function fromEnvironment(...names) {
  if (globalThis.location !== undefined) return undefined;
  const { env = {} } = globalThis.process ?? {};
  return names.map((name) => env[name]).find(Boolean);
}
