/**
 * What the page keeps for a reload. Where the browser forbids storage it lasts as long as the page: nobody is shut out.
 */

const kept = new Map();

function storage() {
  try {
    return globalThis.sessionStorage; // the getter itself throws where cookies are forbidden
  } catch {
    return undefined;
  }
}

/** @param {string} name @returns {string | null} */
export function recall(name) {
  try {
    return storage()?.getItem(name) ?? kept.get(name) ?? null;
  } catch {
    return kept.get(name) ?? null;
  }
}

/** @param {string} name @param {string} value */
export function keep(name, value) {
  try {
    const there = storage();
    if (there === undefined) kept.set(name, value);
    else {
      there.setItem(name, value);
      kept.delete(name);
    }
  } catch {
    kept.set(name, value); // forbidden, or full
  }
}
