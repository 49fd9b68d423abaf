/**
 * What the page's address says: `/?model=NAME` chooses a model, `/?stream=ID` is a link to an answer. Keeps nothing.
 */

import { BASE } from "./base.js";

const STREAM = /[?&]stream=([A-Za-z0-9_-]{8,64})$/;

/** @returns {string | null} the id of the answer that is linked to */
export const linkedStream = () => STREAM.exec(location.search)?.[1] ?? null;

/** The model named. A name that was not escaped may hold `?` and `&` itself: `/?model=scripted?tokens=7&first_ms=1`. */
export function namedModel() {
  const raw = /[?&]model=(.*)$/.exec(location.search.replace(STREAM, ""))?.[1].replaceAll("+", " ") ?? "";
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw;
  }
}

/** @param {string} streamId */
export const linkTo = (streamId) => `${BASE}/?stream=${streamId}`;

/** The address bar shows what a reload or a second tab shall open. */
export function show({ model, streamId }) {
  const parts = [model ? `model=${encodeURIComponent(model)}` : null, streamId ? `stream=${streamId}` : null];
  const query = parts.filter(Boolean).join("&");
  history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}`);
}
