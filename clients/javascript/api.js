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

  /** @param {{url: string, key?: Secret, ticket?: Secret, fetch: typeof fetch}} options */
  constructor({ url, key, ticket, fetch }) {
    this.#url = url.replace(/\/+$/, "");
    this.#key = key;
    this.#ticket = ticket;
    this.#fetch = fetch;
  }

  /** A ticket was given and no key: what needs a header cannot be called. */
  get hasOnlyTicket() {
    return this.#ticket !== undefined && this.#key === undefined;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{headers?: Record<string, string>, body?: object, signal?: AbortSignal, takesTicket?: boolean}} [call]
   * @returns {Promise<Response>}
   * @throws {TokenrelayError} where no server can be meant
   */
  async call(method, path, { headers = {}, body, signal, takesTicket = false } = {}) {
    const address = this.#address(path);
    const key = await valueOf(this.#key);
    if (takesTicket && this.hasOnlyTicket) address.searchParams.set("ticket", await valueOf(this.#ticket));
    return this.#fetch(address.href, {
      method,
      headers: {
        ...headers,
        ...(key && { Authorization: `Bearer ${key}` }),
        ...(body && { "Content-Type": "application/json" }),
      },
      ...(body && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
      cache: "no-store",
    });
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
    const ticket = this.hasOnlyTicket ? await valueOf(this.#ticket) : this.#key && (await this.#newTicket(signal));
    if (ticket) address.searchParams.set("ticket", ticket);
    return address.href;
  }

  /** Of a relative one the page's server is meant; where there is no page that is nobody's. */
  #address(path) {
    try {
      return new URL(this.#url + path, globalThis.location?.href);
    } catch {
      const given = this.#url.slice(0, 80) || "(none given)";
      throw new TokenrelayError("INVALID_REQUEST", `the option \`url\` is no address: ${given}`);
    }
  }

  async #newTicket(signal) {
    const response = await this.call("POST", "/api/tickets", { signal });
    if (!response.ok) throw await refusalOf(response);
    return (await response.json()).ticket;
  }
}

const valueOf = async (secret) => (typeof secret === "function" ? secret() : secret);
