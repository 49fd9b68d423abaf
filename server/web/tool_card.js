/**
 * One tool call as it is seen: its arguments while they are written, then what it gave. Knows no stream.
 */

import { make } from "./elements.js";

const MOST_CHARACTERS = 200; // in the summary

export class ToolCard {
  element = make("details", { class: "tool" });
  #input = make("pre", { tabindex: "0", role: "group", "aria-label": "Input" });
  #state = null; // of what is shown: "writing", "running", "done"; null before anything is

  /** @param {import("./client/parts.js").Tool} tool */
  show(tool) {
    const state = tool.inputText !== undefined ? "writing" : tool.result === undefined ? "running" : "done";
    if (state === "writing" && this.#state === "writing") return this.#fillIn(tool);
    if (state === this.#state) return;
    this.#state = state;
    this.#input.textContent = state === "writing" ? tool.inputText : JSON.stringify(tool.input, null, 2);
    this.element.replaceChildren(summaryOf(tool), this.#input, outcomeOf(tool, state));
    this.element.classList.toggle("running", state !== "done");
    this.element.classList.toggle("failed", tool.failed);
  }

  /** Appended to, so that a selection in it holds. */
  #fillIn(tool) {
    const shown = this.#input.textContent;
    if (tool.inputText === shown) return;
    if (tool.inputText.startsWith(shown)) this.#input.append(tool.inputText.slice(shown.length));
    else this.#input.textContent = tool.inputText;
    this.element.firstElementChild.replaceWith(summaryOf(tool));
  }
}

function summaryOf({ name, input, inputText, result, failed }) {
  const values = () => Object.values(input).map((value) => (typeof value === "string" ? value : JSON.stringify(value))).join(", ");
  const asked = inputText === undefined ? values().slice(0, MOST_CHARACTERS) : inputText.slice(-MOST_CHARACTERS);
  const outcome = result === undefined ? "…" : ` → ${failed ? "failed" : result.slice(0, MOST_CHARACTERS)}`;
  return make("summary", {}, make("b", {}, name), `: ${asked}${outcome}`);
}

function outcomeOf({ result }, state) {
  if (state === "done") return make("pre", { tabindex: "0", role: "group", "aria-label": "Result" }, result);
  return make("p", { class: "note" }, state === "writing" ? "Its arguments are being written…" : "Running…");
}
