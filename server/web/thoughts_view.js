/**
 * What the model thinks: open while it does, folded after. Knows no stream.
 */

import { make } from "./elements.js";

export class ThoughtsView {
  element = make("details", { class: "tool thoughts" });
  #summary = make("summary");
  #text = make("p", { class: "thought" });
  #isLive = false; // as shown
  #length = 0; // of the text that is shown

  constructor() {
    this.element.append(this.#summary, this.#text);
  }

  /**
   * @param {{text: string, seconds: number, isOpen: boolean}} thoughts
   * @param {boolean} isOver the answer has ended
   */
  show(thoughts, isOver) {
    const { text, seconds } = thoughts;
    const isLive = thoughts.isOpen && !isOver;
    if (text.length > this.#length) this.#append(text, isLive);
    // Opened and folded at a change only: in between it stays as its reader wants it.
    if (isLive !== this.#isLive) this.element.open = isLive && text !== "";
    this.#isLive = isLive;
    this.element.classList.toggle("running", isLive);
    const words = isLive ? "Thinking…" : `Thought for ${seconds < 1 ? "a moment" : `${Math.round(seconds)} s`}`;
    if (this.#summary.textContent !== words) this.#summary.textContent = words;
    if (text === "") this.#text.textContent = "The model does not tell what it thinks.";
  }

  #append(text, isLive) {
    const isAtEnd = this.#text.scrollTop + this.#text.clientHeight >= this.#text.scrollHeight - 4;
    if (this.#length === 0) {
      this.#text.textContent = "";
      this.element.open = isLive;
    }
    this.#text.append(text.slice(this.#length));
    this.#length = text.length;
    if (isAtEnd) this.#text.scrollTop = this.#text.scrollHeight;
  }
}
