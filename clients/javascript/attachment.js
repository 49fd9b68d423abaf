/**
 * One reader on a socket, and what it asked for. Knows the two messages that ask, and no socket.
 */

export class Attachment {
  /** Null until the server has said it. @type {string | null} */
  streamId;
  /** The server has answered. */
  wasOpen = false;

  /**
   * @param {number} ref
   * @param {import("./fetch.js").Request} request
   * @param {import("./fetch.js").Reader} reader
   * @param {(outcome: import("./fetch.js").Outcome) => void} settle ends its `read`
   */
  constructor(ref, request, reader, settle) {
    Object.assign(this, { ref, request, reader, settle });
    this.streamId = request.streamId;
  }

  get message() {
    const { streamId, body, idempotencyKey, after } = this.request;
    if (streamId === null) return { ...body, type: "start", ref: this.ref, idempotency_key: idempotencyKey };
    return { type: "resume", ref: this.ref, stream_id: streamId, after };
  }

  /** Characters of its message. */
  get size() {
    return JSON.stringify(this.message).length;
  }

  /** The server would take the two for one: a stream is attached to a socket once. */
  isOf(streamId, idempotencyKey) {
    return (streamId !== null && this.streamId === streamId) || this.request.idempotencyKey === idempotencyKey;
  }
}
