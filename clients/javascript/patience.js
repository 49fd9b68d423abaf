/**
 * What to do after a connection ended: wait how long, or give up. Pure: knows outcomes and counts, no clock.
 *
 * @typedef {{error: TokenrelayError} | {waitMs: number, isFirm: boolean}} Decision `isFirm`: the server named the time.
 */

import { TokenrelayError, mayPass } from "./errors.js";

/** How often a request that is refused for the moment (429, a start at 503) is sent again. */
const MAX_REFUSALS = 5;

export class Patience {
  #backoff;
  #patienceMs;
  #failures = 0; // in a row, without an event between them
  #refusals = 0;
  #waitedMs = 0;

  /**
   * @param {import("./backoff.js").Backoff} backoff
   * @param {number} patienceMs how long, in waits added up, a server is looked for
   */
  constructor(backoff, patienceMs) {
    this.#backoff = backoff;
    this.#patienceMs = patienceMs;
  }

  /** An event came: all is well. */
  reset() {
    this.#failures = this.#refusals = this.#waitedMs = 0;
  }

  /**
   * @param {import("./fetch.js").Outcome} outcome dropped or refused
   * @param {{hasId: boolean, isCursorOurs: boolean, isOffline: boolean, hasOther: boolean}} facts
   *   `hasOther`: the next try goes over the other transport
   * @returns {Decision}
   */
  after(outcome, facts) {
    const decision = outcome.kind === "refused" && !(outcome.byClose && facts.hasOther)
      ? this.#afterRefusal(outcome.error, facts)
      : this.#afterDrop(outcome, facts);
    this.#failures += 1;
    // That a machine has no network is not the server's fault.
    if ("error" in decision || facts.isOffline) return decision;
    this.#waitedMs += decision.waitMs;
    if (this.#waitedMs <= this.#patienceMs) return decision;
    const seconds = Math.round(this.#patienceMs / 1000);
    return { error: outcome.error ?? new TokenrelayError("UNREACHABLE", `no server was reached for ${seconds} s`) };
  }

  #afterRefusal(error, { hasId, isCursorOurs }) {
    // A stream that is there goes on without us: nothing is lost by asking for it for as long as patience lasts.
    if (!hasId || error.status < 500) this.#refusals += 1;
    if (!mayPass(error, isCursorOurs) || this.#refusals > MAX_REFUSALS) return { error };
    if (error.retryAfter !== null) return { waitMs: error.retryAfter * 1000, isFirm: true };
    return this.#later();
  }

  #afterDrop({ afterMs, wasOpen }, { hasOther }) {
    if (afterMs !== undefined) return { waitMs: afterMs, isFirm: true };
    // A transport that a proxy forbids says nothing of the other one.
    if (hasOther && !wasOpen && this.#failures === 0) return { waitMs: 0, isFirm: false };
    return this.#later();
  }

  #later() {
    return { waitMs: this.#backoff.delayMs(this.#failures), isFirm: false };
  }
}
