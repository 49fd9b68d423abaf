/**
 * How long to wait before the next try, and what cuts a wait short. Knows clocks and pages, no connection.
 *
 * @typedef {{now(): number, setTimeout(callback: () => void, ms: number): any, clearTimeout(timer: any): void,
 *   random(): number}} Clock Milliseconds; `random` from 0 to 1.
 * @typedef {{window?: EventTarget, document?: EventTarget & {visibilityState: string}, navigator?: {onLine?: boolean}}}
 *   Page What of a browser's page is listened to; all missing in Node.js.
 */

/** Before the server has said anything; it says 500 to 2,500 itself. */
const FIRST_RETRY_MS = 1_000;

/** `retry: 0` would have a client turn on the spot. */
const MIN_RETRY_MS = 100;

/** However many failures there were. */
export const MAX_RETRY_MS = 15_000;

/** `setTimeout` fires at once for more than 2^31-1. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** @type {Clock} */
export const SYSTEM_CLOCK = {
  now: () => Date.now(),
  setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
  random: () => Math.random(),
};

export class Backoff {
  /** Milliseconds; the server's own `retry:`, which it draws anew for every connection. */
  #retryMs;
  #random;

  /** @param {() => number} random */
  constructor(random) {
    this.#random = random;
    this.#retryMs = FIRST_RETRY_MS * (0.5 + random()); // a crowd that found no server does not come back as one
  }

  /** The server's `retry:`. @param {number} ms */
  advise(ms) {
    this.#retryMs = Math.min(Math.max(ms, MIN_RETRY_MS), 4 * MAX_RETRY_MS);
  }

  /**
   * The time the server named, after the first failure; longer after each, spread, capped.
   * @param {number} failures before this one, in a row
   */
  delayMs(failures) {
    const most = Math.max(this.#retryMs, Math.min(MAX_RETRY_MS, this.#retryMs * 2 ** Math.min(failures, 16)));
    return this.#retryMs + this.#random() * (most - this.#retryMs);
  }
}

/** One pause at a time, which a wake-up may cut short. */
export class Pause {
  #clock;
  #isFirm = false;
  #end = null; // null while nothing waits

  /** @param {Clock} clock */
  constructor(clock) {
    this.#clock = clock;
  }

  get isWaiting() {
    return this.#end !== null;
  }

  /**
   * @param {number} ms
   * @param {boolean} isFirm the server named the time: only `end` cuts it short
   * @returns {Promise<void>}
   */
  wait(ms, isFirm = false) {
    this.#isFirm = isFirm;
    return new Promise((resolve) => {
      const timer = this.#clock.setTimeout(() => this.end(), Math.min(ms, MAX_TIMER_MS));
      this.#end = () => {
        this.#clock.clearTimeout(timer);
        this.#end = null;
        resolve();
      };
    });
  }

  /** The network or the page is back. */
  nudge() {
    if (!this.#isFirm) this.#end?.();
  }

  /** Nothing is waited for any more: a person said so, or it is over. */
  end() {
    this.#end?.();
  }
}

/** @returns {Page} */
export function pageOfBrowser() {
  const { window, document, navigator } = globalThis;
  return typeof window?.addEventListener === "function" ? { window, document, navigator } : {};
}

/** The machine knows that it has no network: trying is pointless, and counts for nothing. @param {Page} page */
export const isOffline = (page) => page.navigator?.onLine === false;

/**
 * Calls back when a connection is worth another look: `online` after a network came (an old connection may be dead
 * without knowing), `shown` when the tab, the window or the machine woke up; `away` when the browser keeps the page for
 * a way back (the back/forward cache) and cuts its connections, `back` when it is shown again.
 * @param {Page} page
 * @param {(why: "online" | "shown" | "away" | "back") => void} callback
 * @returns {() => void} ends it
 */
export function onWake(page, callback) {
  const shown = () => page.document?.visibilityState !== "hidden" && callback("shown");
  const heard = [
    [page.window, "online", () => callback("online")],
    [page.window, "pagehide", ({ persisted }) => persisted && callback("away")],
    [page.window, "pageshow", ({ persisted }) => (persisted ? callback("back") : shown())],
    [page.document, "visibilitychange", shown],
  ];
  for (const [target, name, listener] of heard) target?.addEventListener(name, listener);
  return () => {
    for (const [target, name, listener] of heard) target?.removeEventListener(name, listener);
  };
}
