/**
 * What to do after a connection ended: wait how long, or give up. Pure: knows outcomes and counts, no clock.
 *
 * @typedef {{error: TokenrelayError} | {waitMs: number, isFirm: boolean}} Decision `isFirm`: the server named the time.
 */

import { TokenrelayError, mayPass } from "./errors.js";

/** How often a request that is refused for the moment (429, a start at 503) is sent again. */
const MAX_REFUSALS = 5;

export class RetryPolicy {
  #backoff;
  #patienceMs;
  #firstPatienceMs;
  #hint;
  #hasHeard = false; // a server has answered
  #last = {}; // why and cause of the last outcome that had one
  #failures = 0; // in a row, without an event between them
  #refusals = 0;
  #waitedMs = 0;

  /**
   * @param {import("./backoff.js").Backoff} backoff
   * @param {number} patienceMs how long, in waits added up, a server is looked for
   * @param {number} [firstPatienceMs] the same of one that has never answered; tries count too
   * @param {string} [hint] what to look at when none has ever answered
   */
  constructor(backoff, patienceMs, firstPatienceMs = patienceMs, hint = "") {
    this.#backoff = backoff;
    this.#patienceMs = patienceMs;
    this.#firstPatienceMs = firstPatienceMs;
    this.#hint = hint;
  }

  /** Connections that came to nothing, in a row. */
  get failures() {
    return this.#failures;
  }

  /** A server answered. */
  heard() {
    if (!this.#hasHeard) this.#waitedMs = 0;
    this.#hasHeard = true;
  }

  /** An event came: all is well. */
  reset() {
    this.#failures = this.#refusals = this.#waitedMs = 0;
    this.#last = {};
  }

  /**
   * @param {import("./fetch.js").Outcome} outcome dropped or refused
   * @param {{hasId: boolean, isCursorOurs: boolean, isOffline: boolean, hasOther: boolean, elapsedMs: number}} facts
   *   `hasOther`: the next try goes over the other transport; `elapsedMs`: since the stream was made
   * @returns {Decision}
   */
  after(outcome, facts) {
    const decision = outcome.kind === "refused" && !(outcome.byTransport && facts.hasOther)
      ? this.#afterRefusal(outcome.error, facts)
      : this.#afterDrop(outcome, facts);
    this.#failures += 1;
    // A browser says nothing of why a socket closed: what the other transport met says more.
    if (outcome.cause !== undefined || this.#last.cause === undefined) this.#last = outcome;
    // That a machine has no network is not the server's fault.
    if ("error" in decision || facts.isOffline) return decision;
    if (decision.waitMs === 0) return decision; // the other transport is tried in any case
    return this.#hasHeard ? this.#later(decision, outcome) : this.#first(decision, outcome, facts);
  }

  #later(decision, outcome) {
    this.#waitedMs += decision.waitMs;
    if (this.#waitedMs <= this.#patienceMs) return decision;
    return { error: outcome.error ?? this.#unreachable(`no server was reached for ${seconds(this.#patienceMs)} s`) };
  }

  #first(decision, outcome, { elapsedMs }) {
    const leftMs = this.#firstPatienceMs - Math.max(this.#waitedMs, elapsedMs);
    if (leftMs <= 0) {
      const text = `no server was reached for ${seconds(elapsedMs)} s`;
      return { error: outcome.error ?? this.#unreachable(text, this.#hint) };
    }
    const waitMs = Math.min(decision.waitMs, leftMs);
    this.#waitedMs += waitMs;
    return { ...decision, waitMs };
  }

  #unreachable(text, hint = "") {
    const { why, cause } = this.#last;
    return new TokenrelayError("UNREACHABLE", `${text}${why ? `: ${why}` : ""}${hint}`, { cause });
  }

  #afterRefusal(error, { hasId, isCursorOurs }) {
    // A stream that is there goes on without us: nothing is lost by asking for it until the time is over.
    if (!hasId || error.status < 500) this.#refusals += 1;
    if (!mayPass(error, isCursorOurs) || this.#refusals > MAX_REFUSALS) return { error };
    if (error.retryAfter !== null) return { waitMs: error.retryAfter * 1000, isFirm: true };
    return this.#backOff();
  }

  #afterDrop({ afterMs, wasOpen }, { hasOther }) {
    if (afterMs !== undefined) return { waitMs: afterMs, isFirm: true };
    // A transport that a proxy forbids says nothing of the other one.
    if (hasOther && !wasOpen && this.#failures === 0) return { waitMs: 0, isFirm: false };
    return this.#backOff();
  }

  #backOff() {
    return { waitMs: this.#backoff.delayMs(this.#failures), isFirm: false };
  }
}

const seconds = (ms) => Math.round(ms / 1000);
