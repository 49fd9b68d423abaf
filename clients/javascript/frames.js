/**
 * The next moment at which drawing makes sense. Knows what a browser offers for that, and does without.
 */

/** A page in the background gets no frames; it is told all the same, in time for a title or a notification. */
const HIDDEN_FRAME_MS = 250;
const FRAME_MS = 16;

/** @param {() => void} callback @returns {() => void} calls it off */
export function onNextFrame(callback) {
  const frame = globalThis.requestAnimationFrame?.(once);
  const timer = setTimeout(once, frame === undefined ? FRAME_MS : HIDDEN_FRAME_MS);
  function off() {
    clearTimeout(timer);
    if (frame !== undefined) globalThis.cancelAnimationFrame(frame);
  }
  function once() {
    off();
    callback();
  }
  return off;
}
