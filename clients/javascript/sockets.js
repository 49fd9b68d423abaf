/**
 * The sockets of one client: one, unless a stream is read twice or there are very many. Knows no message.
 */

import { Watchdog } from "./liveness.js";
import { Socket } from "./socket.js";

/** For so long a socket that came to nothing is remembered: networks change, and a proxy may be gone. */
const DOUBT_MS = 5 * 60_000;

/** A cancel is answered at once. */
const CANCEL_MS = 5_000;

export class SocketTransport {
  name = "websocket";
  #doubtfulUntil = -Infinity; // by the clock
  #api;
  #WebSocket;
  #clock;
  #sockets = new Set();

  /** @param {import("./api.js").Api} api */
  constructor(api, WebSocket, clock) {
    this.#api = api;
    this.#WebSocket = WebSocket;
    this.#clock = clock;
  }

  /** The last one came to nothing: a proxy may forbid them, and each try costs the reader time. */
  get isDoubtful() {
    return this.#clock.now() < this.#doubtfulUntil;
  }

  /**
   * @param {import("./fetch.js").Request} request
   * @param {import("./fetch.js").Reader} reader
   * @param {AbortSignal} signal
   * @returns {Promise<import("./fetch.js").Outcome>}
   */
  async read(request, reader, signal) {
    if (signal.aborted) return { kind: "dropped", wasOpen: false };
    return this.#socket((socket) => socket.hasRoomFor(request)).read(request, reader, signal);
  }

  /** @throws {TokenrelayError | Error} the latter when the connection went */
  async cancel(streamId) {
    const carrier = [...this.#sockets].find((socket) => socket.carries(streamId));
    const late = new Error("the socket gave no answer in time");
    const watchdog = new Watchdog(this.#clock, () => {});
    const tooLate = new Promise((_, reject) => (watchdog.onBite = () => reject(late)));
    watchdog.set(CANCEL_MS);
    try {
      await Promise.race([(carrier ?? this.#socket((socket) => socket.isUsable)).cancel(streamId), tooLate]);
    } finally {
      watchdog.stop();
    }
  }

  wake() {
    for (const socket of this.#sockets) socket.probe();
    return false; // a socket can be asked
  }

  /** The page is put away: a socket that is open would keep the browser from that, or be cut. */
  suspend() {
    this.close();
  }

  close() {
    for (const socket of [...this.#sockets]) socket.close();
  }

  #socket(fits) {
    const found = [...this.#sockets].find(fits);
    if (found) return found;
    const address = (signal) => this.#api.socketUrl(signal);
    const opened = new Socket(address, this.#WebSocket, this.#clock, (hasHeard) => {
      this.#sockets.delete(opened);
      this.#doubtfulUntil = hasHeard ? -Infinity : this.#clock.now() + DOUBT_MS;
    });
    this.#sockets.add(opened);
    return opened;
  }
}
