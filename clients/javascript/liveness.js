/**
 * Whether a connection still lives: silence is measured, and on a socket it is broken by asking. Opens nothing.
 */

/** One missed beat; three of them are 45 s, as over SSE. */
const BEAT_MS = 15_000;
const MAX_MISSED = 3;

/** After the machine woke up an answer comes within this, or the connection is dead. */
const PROBE_MS = 5_000;

/** Calls back once after so long without `set`. */
export class Watchdog {
  #clock;
  #timer = null;
  /** What it calls back. */
  onBite;

  constructor(clock, bite) {
    this.#clock = clock;
    this.onBite = bite;
  }

  set(ms) {
    this.stop();
    this.#timer = this.#clock.setTimeout(() => this.onBite(), ms);
  }

  get isSet() {
    return this.#timer !== null;
  }

  stop() {
    this.#clock.clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/**
 * Asks a silent peer for a word, and gives it up after three beats without one. Beats are counted, not milliseconds:
 * a tab in the background has its timers held back, and would else take a peer for dead that it never asked.
 */
export class Heartbeat {
  #ping;
  #dead;
  #beat;
  #probe;
  #missed = 0;
  #hasHeard = false; // since the last beat

  /** @param {import("./backoff.js").Clock} clock @param {() => void} ping @param {() => void} dead */
  constructor(clock, ping, dead) {
    this.#ping = ping;
    this.#dead = dead;
    this.#beat = new Watchdog(clock, () => this.#onBeat());
    this.#probe = new Watchdog(clock, dead);
  }

  start() {
    this.#beat.set(BEAT_MS);
  }

  stop() {
    this.#beat.stop();
    this.#probe.stop();
  }

  heard() {
    this.#hasHeard = true;
    this.#probe.stop();
  }

  /** The machine or the network woke up: the peer proves itself soon. */
  probe() {
    if (this.#probe.isSet) return;
    this.#ping();
    this.#probe.set(PROBE_MS);
  }

  #onBeat() {
    if (this.#hasHeard) this.#missed = 0;
    else if ((this.#missed += 1) >= MAX_MISSED) return this.#dead();
    else this.#ping();
    this.#hasHeard = false;
    this.start();
  }
}
