/**
 * One turn's stream, taken in frame by frame: what came into the turn, what the connection is doing into words.
 */

import { Parts } from "./client/parts.js";

/** So much text a frame: an answer that is there already must not stop the page. */
const MOST_EVENTS = 2_000;
const NOTICE_MS = 6_000;
const HIDDEN_MS = 250;
const WIRES = { sse: "SSE", websocket: "WebSocket" };

export class Reading {
  #turn;
  #open; // makes the stream, anew after a key was asked for
  #show; // called once a frame with what is new
  #askForKey;
  #stream = null;
  #next = 0; // the first event of the stream that is not taken
  #parts = new Parts(); // of those that are
  #frame = null; // cancels the frame to come; null while there is none
  #lostAt = null; // index of the first event after a connection was lost; null while there is one
  #isSwitching = false; // the connection was ended by choice
  #notice = "";
  #caughtUp = 0;
  #isLeft = false; // nothing is shown of it any more
  /** How often the connection was lost and came back. */
  reconnects = 0;

  constructor(turn, { open, show, askForKey }) {
    this.#turn = turn;
    this.#open = open;
    this.#show = show;
    this.#askForKey = askForKey;
  }

  start() {
    this.#stream = this.#open();
    this.#next = 0;
    this.#parts = new Parts();
    this.#lostAt = null;
    this.#stream.subscribe(() => this.#changed());
    if (this.#turn.wantsStop) this.#cancel();
  }

  /** @param {"sse" | "websocket"} transport goes on over it, from the same cursor */
  use(transport) {
    if (this.#stream.isOver || this.#stream.transport === transport) return;
    this.#isSwitching = true;
    this.#stream.use(transport);
  }

  /**
   * Holds from the click on: a start that is not answered yet is stopped when it is. Where the server cannot be reached
   * the answer is let go of at once, and the server told when it is back.
   */
  stop() {
    this.#turn.wantsStop = true;
    this.#cancel();
    if (this.#stream.attempts === 0 || this.#stream.isOver) return;
    this.#take();
    this.detach();
    const note = "Stopped here: the server cannot be reached. It will be told as soon as it is back.";
    this.#turn.end ??= { note, isBad: true };
    this.#show("");
  }

  /** Does not wait for the next try. */
  retryNow() {
    this.#stream.retryNow();
  }

  /** The next try is waited for. */
  get isWaiting() {
    return this.#stream.retryAt !== null && this.#stream.attempts > 0;
  }

  /** Which try comes next, and when; "" while none is waited for. */
  get nextTry() {
    if (!this.isWaiting) return "";
    const seconds = Math.max(0, Math.ceil((this.#stream.retryAt - Date.now()) / 1000));
    return `Try ${this.#stream.attempts + 1} in ${seconds} s`;
  }

  detach() {
    this.#isLeft = true; // first: the stream tells of its end
    this.#dropFrame();
    this.#stream.detach();
  }

  /** The connection's state in words. */
  get words() {
    const { state } = this.#stream;
    if (this.#isSwitching) return `Switching to ${WIRES[this.#stream.transport]}…`;
    if (state === "reconnecting" || (state === "connecting" && this.#lostAt !== null)) return lost();
    if (state === "connecting" && this.#stream.attempts > 0) return "The server cannot be reached. Trying again…";
    if (!navigator.onLine) return lost();
    if (this.#turn.wantsStop) return "Stopping…";
    if (this.#notice) return this.#notice;
    if (state === "connecting") return "Connecting…";
    if (this.#parts.isThinking) return `Thinking over ${WIRES[this.#stream.transport]}…`;
    return `${this.#turn.text ? "Writing" : "Waiting for the model"} over ${WIRES[this.#stream.transport]}…`;
  }

  get isTroubled() {
    const { state, attempts } = this.#stream;
    const isLost = state === "reconnecting" || (state === "connecting" && attempts > 0);
    return (isLost && !this.#isSwitching) || !navigator.onLine;
  }

  #cancel() {
    this.#stream.cancel().catch(() => {}); // its stream tells the rest
  }

  #changed() {
    if (this.#isLeft) return;
    if (this.#isSwitching) this.#goOn();
    else if (this.#stream.state === "reconnecting" && this.#lostAt === null) {
      this.#lostAt = this.#stream.events.length;
      this.reconnects += 1;
    }
    this.#turn.streamId ??= this.#stream.streamId;
    if (this.#frame !== null) return;
    const isHidden = document.visibilityState === "hidden"; // there are no frames then
    const id = isHidden ? setTimeout(() => this.#take(), HIDDEN_MS) : requestAnimationFrame(() => this.#take());
    this.#frame = () => (isHidden ? clearTimeout(id) : cancelAnimationFrame(id));
  }

  #dropFrame() {
    this.#frame?.();
    this.#frame = null;
  }

  #take() {
    this.#dropFrame();
    const events = this.#stream.events.slice(this.#next, this.#next + MOST_EVENTS);
    this.#comeBack();
    this.#next += events.length;
    let text = "";
    for (const { id, data } of events) {
      if (id !== null) this.#turn.lastId = id;
      text += data.token ?? "";
      if (data.routing) this.#turn.routing = data.routing;
      this.#parts.take(data);
    }
    if (events.length > 0) this.#tellParts();
    this.#turn.text += text;
    if (this.#next < this.#stream.events.length) this.#changed();
    else if (this.#stream.isOver) this.#finish();
    this.#show(text);
  }

  #tellParts() {
    const { tools, hasThought, thinking, thoughtS, isThinking } = this.#parts;
    this.#turn.tools = tools;
    if (hasThought) this.#turn.thoughts = { text: thinking, seconds: thoughtS, isOpen: isThinking };
  }

  /** What happened while there was no connection, once it is back. */
  #comeBack() {
    const { state, events } = this.#stream;
    if (this.#lostAt === null || state === "reconnecting" || state === "connecting") return;
    const caughtUp = countTokens(events, this.#lostAt);
    const isNews = events.length > this.#lostAt;
    if (isNews) this.#lostAt = null;
    this.#caughtUp += caughtUp;
    this.#say(`Reconnected, nothing lost${caughtUp ? `, ${tokens(caughtUp)} caught up` : ""}.`);
  }

  /** After a switch by choice: nothing was lost, and nothing is to be caught up. */
  #goOn() {
    if (this.#stream.state === "reconnecting" || this.#stream.isOver) return;
    this.#isSwitching = false;
    this.#say(`Writing over ${WIRES[this.#stream.transport]} now, from the same token on.`);
  }

  #say(notice) {
    this.#notice = notice;
    setTimeout(() => {
      if (this.#notice !== notice || this.#turn.end || this.#isLeft) return;
      this.#notice = "";
      this.#show("");
    }, NOTICE_MS);
  }

  #finish() {
    const { state, error, events } = this.#stream;
    if (state === "detached") return;
    if (error?.status === 401) return void this.#askAgain();
    const last = events.at(-1)?.data;
    if (error !== null) this.#turn.end = { note: wordsOf(error), isBad: true };
    else if (last?.done) this.#turn.end = { note: this.#summary(last), isBad: false };
    else if (this.#turn.wantsStop) this.#turn.end = { note: "Stopped before it began.", isBad: false };
    else this.#turn.end = { note: "There is nothing more in this answer.", isBad: false };
  }

  async #askAgain() {
    if (await this.#askForKey()) this.start();
    else {
      this.#turn.end = { note: "This server wants a key.", isBad: true };
      this.#show("");
    }
  }

  #summary(end) {
    const cut = { cancelled: "stopped", length: "cut off at the length limit", content_filter: "held back by a filter" };
    const pace = end.response_time > 0.5 && end.output_tokens > 20 ? end.output_tokens / end.response_time : 0;
    const times = this.reconnects === 1 ? "once" : `${this.reconnects} times`;
    const facts = [
      end.resolved_model, tokens(end.output_tokens), `${end.response_time.toFixed(1)} s`,
      pace ? `${pace.toFixed(0)} tokens/s` : null, cut[end.finish_reason],
      this.reconnects ? `reconnected ${times}, nothing lost, ${tokens(this.#caughtUp)} caught up` : null,
    ];
    return facts.filter(Boolean).join(" · ");
  }
}

const lost = () => (navigator.onLine
  ? "Connection lost. Reconnecting…"
  : "Offline. The answer goes on at the server and is caught up later.");

const tokens = (count) => `${count} ${count === 1 ? "token" : "tokens"}`;

/** Of the events from `first` on. One that was joined has the id of its last: it stands for all since the one before. */
function countTokens(events, first) {
  let count = 0;
  for (let index = first; index < events.length; index += 1) {
    const before = index > 0 ? events[index - 1].id ?? 0 : 0;
    if (events[index].data.token && events[index].id !== null) count += events[index].id - before;
  }
  return count;
}

const WORDS = {
  NOT_FOUND: "This answer is not here: it has expired, or it belongs to another key.",
  STREAM_EXPIRED: "This answer has expired: it was kept for a while and is gone now.",
  CURSOR_AHEAD: "The server has less of this answer than is shown here; it cannot be continued.",
};

function wordsOf({ code, message }) {
  const text = WORDS[code] ?? message;
  return text.charAt(0).toUpperCase() + text.slice(1).replace(/[^.!?…)]$/, "$&.");
}
