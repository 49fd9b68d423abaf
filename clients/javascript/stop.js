/**
 * A stop, which is tried again until the server knows it, whatever becomes of the stream's reader.
 */

import { TokenrelayError, wordsOf } from "./errors.js";

/**
 * Resolves once the server knows, or the stream has ended by itself. Every way there is is tried, one after the other,
 * and again after a wait that grows.
 *
 * @param {object} what
 * @param {string} what.streamId
 * @param {() => {cancel(streamId: string, release: () => void): Promise<void>}[]} what.ways
 * @param {() => boolean} what.hasEnded
 * @param {(ms: number) => Promise<void>} what.rest ends with the stream too
 * @param {() => void} what.release lets go of the stream's own connection, for a call that may be waiting for one
 * @param {import("./backoff.js").Backoff} what.backoff
 * @param {number} what.patienceMs in waits added up
 * @throws {TokenrelayError} each way refused, or none was there for so long
 */
export async function stop({ streamId, ways, hasEnded, rest, release, backoff, patienceMs }) {
  let waitedMs = 0;
  for (let failures = 0; !hasEnded(); failures += 1) {
    const refusals = [];
    let last;
    const tried = ways();
    for (const way of tried) {
      try {
        return await way.cancel(streamId, release);
      } catch (error) {
        last = error;
        if (error?.name === "TokenrelayError" && !error.retryable) refusals.push(error);
      }
    }
    // Who may not come this way may come another: only what the server says of the stream itself counts for all.
    const final = refusals.find(({ status }) => status !== 401 && status !== 403);
    if (final !== undefined || refusals.length === tried.length) throw final ?? refusals[0];
    const delayMs = backoff.delayMs(failures);
    waitedMs += delayMs;
    if (waitedMs > patienceMs) {
      const message = `the server could not be told to stop: ${wordsOf(last)}`;
      throw new TokenrelayError("UNREACHABLE", message, { cause: last });
    }
    await rest(delayMs);
  }
  return undefined;
}
