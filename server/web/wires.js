/**
 * The page's own `fetch` and `WebSocket`, which can be cut: what the client then sees is a connection that broke.
 */

export class Wires {
  #open = new Set(); // functions that break one connection each

  /** What a client takes as its options. */
  get options() {
    const wires = this;
    return {
      fetch: (address, options = {}) => this.#fetch(address, options),
      WebSocket: class extends WebSocket {
        constructor(...address) {
          super(...address);
          const cut = () => this.close(4000, "dropped by its reader"); // 4000: private use (RFC 6455, section 7.4.2)
          wires.#open.add(cut);
          this.addEventListener("close", () => wires.#open.delete(cut));
        }
      },
    };
  }

  /** Breaks every connection there is now. */
  cut() {
    for (const cut of [...this.#open]) cut();
  }

  async #fetch(address, { signal, ...options }) {
    const connection = new AbortController();
    const cut = () => connection.abort();
    this.#open.add(cut);
    signal?.addEventListener("abort", () => {
      this.#open.delete(cut);
      cut();
    });
    if (signal?.aborted) cut();
    return fetch(address, { ...options, signal: connection.signal });
  }
}
