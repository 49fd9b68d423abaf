/**
 * The turns of one conversation, and how a reload finds them again. Opens no connection, shows nothing.
 *
 * What a turn needs to find its stream is kept in sessionStorage. The text of an unfinished answer is not: after a
 * reload it is read again from the start, and so is whole whatever had been shown before.
 */

import { keep, recall } from "./storage.js";

const TURNS = "tokenrelay.turns";
const HISTORY_CHARACTERS = 100_000;

export class Turn {
  text = "";
  /** Of the last event that was taken; 0 before any. */
  lastId = 0;

  /** @param {Partial<Turn>} saved */
  constructor(saved) {
    /** Idempotency-Key; null for one joined by its link. */
    this.key = saved.key ?? null;
    /** Null for one joined by its link. */
    this.question = saved.question ?? null;
    this.model = saved.model ?? null;
    /** Null until the server has said it. */
    this.streamId = saved.streamId ?? null;
    this.wantsStop = saved.wantsStop ?? false;
    /** `{note, isBad}` once it is over. */
    this.end = saved.end ?? null;
    this.tools = this.end ? saved.tools ?? [] : [];
    /** `{text, seconds, isOpen}`: what the model told of its thoughts, how long, whether it still thinks; null: it did not. */
    this.thoughts = this.end ? saved.thoughts ?? null : null;
    /** Why NeuroSwitch chose; null where it did not. */
    this.routing = this.end ? saved.routing ?? null : null;
    this.text = this.end ? saved.text ?? "" : "";
  }

  toJSON() {
    const { key, question, model, streamId, wantsStop, end, text, tools, thoughts, routing } = this;
    return { key, question, model, streamId, wantsStop, end, ...(end && { text, tools, thoughts, routing }) };
  }
}

export class Conversation {
  /** @type {Turn[]} oldest first */
  turns = [];

  /** @returns {Turn | undefined} the one that is being answered */
  get live() {
    return this.turns.findLast((turn) => turn.end === null);
  }

  add(turn) {
    this.turns.push(turn);
    this.save();
  }

  /** Takes out a turn and all that follow it. @returns {Turn[]} them */
  cutFrom(turn) {
    const gone = this.turns.splice(Math.max(this.turns.indexOf(turn), 0));
    this.save();
    return gone;
  }

  clear() {
    this.turns = [];
    this.save();
  }

  save() {
    keep(TURNS, JSON.stringify(this.turns));
  }

  /** @returns {Turn[]} those of before a reload */
  static saved() {
    try {
      return JSON.parse(recall(TURNS) ?? "[]").map((turn) => new Turn(turn));
    } catch {
      return [];
    }
  }

  /** The request of a turn. It comes out the same after a reload: a repeated start must have the same body. */
  requestOf(turn) {
    const messages = [{ role: "user", content: turn.question }];
    let room = HISTORY_CHARACTERS;
    for (const past of this.turns.slice(0, this.turns.indexOf(turn)).reverse()) {
      if (past.question === null || !past.text) continue;
      room -= past.question.length + past.text.length;
      if (room < 0) break;
      messages.unshift({ role: "user", content: past.question }, { role: "assistant", content: past.text });
    }
    return { messages, model: turn.model ?? undefined, enable_tools: true, show: ["thinking", "tool_input"] };
  }
}

/** 128 bits. `randomUUID` is there on secure origins only, and a server may well be reached by plain HTTP. */
export const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
