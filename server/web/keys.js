/**
 * The key of a server that wants one: asked for once, kept until the tab is closed, sent to nobody else.
 */

import { BASE } from "./base.js";
import { byId } from "./elements.js";
import { keep, recall } from "./storage.js";

const NAME = "tokenrelay.key";

let asking = null; // the dialog's promise while it is open: all who need a key wait for the same one

/** @returns {string | undefined} */
export const key = () => recall(NAME) ?? undefined;

/** @param {string | undefined} refused the key that did not do @returns {Promise<boolean>} whether there is another */
export function ask(refused) {
  if (key() !== refused) return Promise.resolve(true); // another question has asked meanwhile
  asking ??= open(refused).finally(() => (asking = null));
  return asking;
}

function open(refused) {
  const dialog = byId("ask");
  const box = byId("key");
  byId("why").textContent = refused ? "This key is not known here." : "This server wants a key.";
  box.value = dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const given = box.value.trim();
      box.value = "";
      const isGiven = dialog.returnValue === "given" && given !== "";
      if (isGiven) keep(NAME, given);
      resolve(isGiven);
    };
  });
}

/** `fetch` with the key; asks for one when it is refused. Resolves to the refusal when nobody has one. */
export async function fetchWithKey(path, options = {}) {
  for (;;) {
    const used = key();
    const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) };
    const response = await fetch(BASE + path, { ...options, headers, cache: "no-store" });
    if (response.status !== 401 || !(await ask(used))) return response;
  }
}
