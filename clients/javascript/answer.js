/**
 * What has been received of one stream, each event once whatever connections bring. Opens nothing, waits for nothing.
 *
 * @typedef {{token: string, done: boolean, status?: string, error_code?: string, tool_call_id?: string}} Data
 *   An event's object: protocol/README.md, section 2.
 * @typedef {{id: number | null, data: Data}} StreamEvent `id` is null for what is not in the stream's log.
 */

import { TokenrelayError } from "./errors.js";

/**
 * A cursor as people write it: protocol/README.md, section 4.
 * @param {number | string | null | undefined} value
 * @returns {number} the id after which to go on, 0 for the start
 * @throws {TokenrelayError} INVALID_CURSOR
 */
export function cursorOf(value) {
  const isOne = value === null || value === undefined || typeof value === "number" || typeof value === "string";
  const text = isOne ? String(value ?? "").replace(/^ +| +$/g, "") : "not a cursor";
  if (["", "-", "-1"].includes(text)) return 0;
  if (/^[0-9]{1,16}$/.test(text) && Number.isSafeInteger(Number(text))) return Number(text);
  throw new TokenrelayError("INVALID_CURSOR", `a cursor is the id of an event, got ${text.slice(0, 40)}`);
}

export class Answer {
  /** The model's text so far. */
  text = "";
  /** Everything that came, in order. @type {StreamEvent[]} */
  events = [];
  /** Id of the last event that came whole; where to resume. */
  lastEventId;
  /** The event with `done` true; null until it came. @type {Data | null} */
  end = null;
  /** The worker has begun: no longer queued. */
  hasStarted;
  /** The cursor is an id that the server gave, not one that the caller of `resume` brought. */
  isCursorOurs = false;

  /** @param {number} after the cursor to begin at, 0 for the start */
  constructor(after) {
    this.lastEventId = after;
    this.hasStarted = after > 0;
  }

  /**
   * Takes an event unless it is known already.
   * @param {number | null} id null: it has none of its own
   * @param {Data} data
   * @returns {boolean} whether it was news
   */
  take(id, data) {
    if (this.end !== null) return false;
    if (id === null ? !this.#mayLackId(data) : id <= this.lastEventId) return false;
    this.events.push({ id, data });
    // An unknown event is passed over, but it has a `token`, and its id counts (section 9).
    this.text += data.token ?? "";
    if (id !== null) {
      this.lastEventId = id;
      this.isCursorOurs = true;
      this.hasStarted = true;
    }
    if (data.done) this.end = data;
    return true;
  }

  /**
   * Only `accepted`, which each connection that starts the stream brings, and ends that are not in the log. By the
   * WHATWG rules an event without an id looks like a repetition of the one before, so it must carry no text.
   */
  #mayLackId(data) {
    if (data.done) return true;
    return data.status === "queued" && this.events.length === 0;
  }
}
