/**
 * Server-Sent Events from bytes, incrementally. Knows the WHATWG rules, not Tokenrelay's events, and opens nothing.
 *
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, sections 9.2.5 and 9.2.6.
 *
 * @typedef {{data: string, event: string, id: string}} Frame One event. `id` is the last id on the connection up to it.
 */

/** More digits are no time but an attempt. */
const MAX_RETRY_DIGITS = 15;

/** What the peer may send without ending an event, in characters. */
const MAX_EVENT_CHARACTERS = 1024 * 1024;

export class SSEDecoder {
  /** UTF-8 over chunk borders; drops one BOM at the start; what is no UTF-8 becomes U+FFFD. */
  #text = new TextDecoder("utf-8");
  /** The start of a line whose end has not come yet, in the pieces in which it came. */
  #rest = [];
  /** Characters held in `#rest` and `#data`. */
  #size = 0;
  /** The last chunk ended in CR: an LF that opens the next one belongs to it. */
  #afterCr = false;
  /** Data lines of the event under construction. */
  #data = [];
  #event = "";
  /** The last `id:` seen; it counts once its event has been dispatched. */
  #id = "";

  /** Where to resume: the id of the last event that came whole, "" before any. */
  lastEventId = "";
  /** The last `retry:` seen, in milliseconds; null until one came. @type {number | null} */
  retryMs = null;

  /**
   * Every event that this chunk completes, in order.
   * @param {Uint8Array} chunk
   * @returns {Frame[]}
   * @throws {RangeError} when an event grows beyond all bounds
   */
  feed(chunk) {
    let text = this.#text.decode(chunk, { stream: true });
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    const frames = [];
    for (let index = 0; index < lines.length - 1; index += 1) {
      const line = this.#line(lines[index]);
      if (line !== "") this.#takeLine(line);
      else this.#dispatch(frames);
    }
    this.#hold(lines[lines.length - 1]);
    return frames;
  }

  /** The whole of a line whose end is `tail`. */
  #line(tail) {
    if (this.#rest.length === 0) return tail;
    const line = this.#rest.join("") + tail;
    this.#size -= line.length - tail.length;
    this.#rest = [];
    return line;
  }

  #hold(piece) {
    if (piece === "") return;
    this.#grow(piece.length);
    this.#rest.push(piece);
  }

  #grow(characters) {
    this.#size += characters;
    if (this.#size > MAX_EVENT_CHARACTERS) throw new RangeError(`an event has at most ${MAX_EVENT_CHARACTERS} characters`);
  }

  #takeLine(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    // "If value starts with a U+0020 SPACE character, remove it from value."
    if (value.startsWith(" ")) value = value.slice(1);
    switch (name) {
      case "data":
        this.#grow(value.length + 1);
        this.#data.push(value);
        break;
      case "event":
        this.#event = value;
        break;
      case "id":
        // "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value."
        if (!value.includes("\0")) this.#id = value;
        break;
      case "retry":
        if (/^[0-9]+$/.test(value) && value.length <= MAX_RETRY_DIGITS) this.retryMs = Number(value);
        break;
      default: // "Otherwise: The field is ignored."
    }
  }

  /** An empty line: the event is whole. */
  #dispatch(frames) {
    const data = this.#data;
    const event = this.#event;
    this.#data = [];
    this.#event = "";
    this.#size = 0;
    // "Set the last event ID string of the event source to the value of the last event ID buffer": not before, so that
    // an event whose id came and whose end did not is asked for again.
    this.lastEventId = this.#id;
    if (data.length > 0) frames.push({ data: data.join("\n"), event: event || "message", id: this.#id });
  }
}
