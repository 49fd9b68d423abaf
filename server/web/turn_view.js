/**
 * One turn as it is seen: the question, tool cards, the answer, what can be done with it. Opens no connection.
 *
 * The article holds the model's text and nothing else; labels, cards and notes stand beside it.
 */

import { linkTo } from "./address.js";
import { copy } from "./clipboard.js";
import { button, make } from "./elements.js";
import { Markdown } from "./markdown.js";
import { Rendering } from "./rendering.js";
import { ThoughtsView } from "./thoughts_view.js";
import { ToolCard } from "./tool_card.js";

export class TurnView {
  #turn;
  #can; // {edit(turn), again(turn)}
  #markdown = new Markdown();
  #rendering;
  #article;
  #thoughts = new ThoughtsView();
  #cards = new Map(); // tool id → its ToolCard
  #routing = make("div", { class: "routing" });
  #tools = make("div", { class: "tools" });
  #foot = make("div", { class: "foot" });
  #isEnded = false;
  /** The whole. */
  element;

  constructor(turn, can) {
    this.#turn = turn;
    this.#can = can;
    this.#article = make("article", { class: "answer writing", role: "article", "aria-label": "Answer" });
    this.#rendering = new Rendering(this.#article);
    this.#article.addEventListener("click", copyCode);
    this.element = make("section", { class: "turn" }, make("h2", { class: "unseen" }, turn.question === null ? "Joined answer" : "Question"),
      this.#question(), this.#routing, this.#tools, this.#article, this.#foot);
    this.update(turn.text);
  }

  /** @param {string} text what is new of it */
  update(text) {
    if (text) this.#rendering.show(this.#markdown.append(text));
    if (this.#turn.routing && !this.#routing.hasChildNodes()) this.#routing.append(routingCard(this.#turn.routing));
    if (this.#turn.thoughts) this.#showThoughts();
    this.#showTools();
    if (this.#turn.end && !this.#isEnded) this.#showEnd();
  }

  #question() {
    const { question } = this.#turn;
    if (question === null) return null;
    const edit = button("quiet", "Edit", () => this.#can.edit(this.#turn));
    return make("div", { class: "question" }, make("p", { class: "asked" }, question), edit);
  }

  #showThoughts() {
    if (this.#thoughts.element.parentNode === null) this.#tools.before(this.#thoughts.element);
    this.#thoughts.show(this.#turn.thoughts, this.#turn.end !== null);
  }

  #showTools() {
    const left = new Map(this.#cards);
    for (const tool of this.#turn.tools) {
      const card = this.#cards.get(tool.id) ?? new ToolCard();
      if (!this.#cards.has(tool.id)) this.#tools.append(card.element);
      card.show(tool);
      this.#cards.set(tool.id, card);
      left.delete(tool.id);
    }
    for (const [id, card] of left) { // arguments of which no call has come
      card.element.remove();
      this.#cards.delete(id);
    }
  }

  #showEnd() {
    this.#isEnded = true;
    this.#article.classList.remove("writing");
    const { end, question, streamId } = this.#turn;
    const note = make("p", { class: end.isBad ? "note bad" : "note" }, end.note);
    const again = button(end.isBad ? "again" : "quiet again", end.isBad ? "Ask again" : "Regenerate", () => this.#can.again(this.#turn));
    const actions = [
      this.#turn.text ? button("quiet", "Copy answer", (event) => copy(this.#turn.text, event.currentTarget)) : null,
      streamId ? button("quiet", "Copy link", (event) => copy(linkTo(streamId), event.currentTarget)) : null,
      question === null ? null : again,
    ];
    this.#foot.replaceChildren(note, make("div", { class: "actions" }, ...actions));
  }
}

function copyCode({ target }) {
  const found = target.closest?.("button.copy");
  if (found) copy(found.parentElement.querySelector("code").textContent, found);
}

/** Why NeuroSwitch chose the model that answers. */
function routingCard({ chosen, strategy, kind, reasons = [], considered = [] }) {
  const others = considered.map(({ model, score }) => make("li", {}, make("span", {}, String(model)), make("span", {}, Number(score).toFixed(2))));
  return make("details", { class: "tool chosen" },
    make("summary", {}, "NeuroSwitch chose ", make("b", {}, String(chosen)), reasons.length ? `: ${reasons[0]}` : ""),
    make("p", { class: "note" }, `The question is taken for: ${kind}. Looking for: ${strategy}.`),
    make("ul", { class: "reasons" }, ...reasons.map((reason) => make("li", {}, String(reason)))),
    others.length ? make("ul", { class: "scores", "aria-label": "Scores" }, ...others) : null);
}
