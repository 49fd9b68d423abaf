/**
 * The sockets of one client: one, unless a stream is read twice or there are very many. Knows no message.
 */

import { Socket } from "./socket.js";

export class SocketTransport {
  name = "websocket";
  /** The last one was never opened: a proxy may forbid them, and each try costs the reader time. */
  isDoubtful = false;
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
    await (carrier ?? this.#socket((socket) => socket.isUsable)).cancel(streamId);
  }

  wake() {
    for (const socket of this.#sockets) socket.probe();
    return false; // a socket can be asked
  }

  close() {
    for (const socket of [...this.#sockets]) socket.close();
  }

  #socket(fits) {
    const found = [...this.#sockets].find(fits);
    if (found) return found;
    const address = (signal) => this.#api.socketUrl(signal);
    const opened = new Socket(address, this.#WebSocket, this.#clock, (hasOpened) => {
      this.#sockets.delete(opened);
      this.isDoubtful = !hasOpened;
    });
    this.#sockets.add(opened);
    return opened;
  }
}
