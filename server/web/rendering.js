/**
 * Pieces of markdown as elements. Makes every node by name and sets text as text; knows no stream.
 *
 * Each piece has one node. The first of a block makes the shell that holds it and those that continue it:
 *
 *     <ol> ─┬─ <li>     <div class="code"> ── <pre> ── <code> ─┬─ <span>     <table> ─┬─ <tbody>
 *           └─ <li>                                            └─ <span>              └─ <tbody>
 *
 * What is settled is never touched again; what is open is patched, so that a selection in it holds.
 */

import { make } from "./elements.js";
import { inline } from "./inline.js";

export class Rendering {
  #container;
  #records = []; // {piece, shell, home, node} of the open pieces
  #last = null; // the record of the last settled piece

  /** @param {Element} container is to hold the blocks and nothing else */
  constructor(container) {
    this.#container = container;
  }

  /** @param {{settled: import("./markdown.js").Piece[], open: import("./markdown.js").Piece[]}} pieces */
  show({ settled, open }) {
    const pieces = [...settled, ...open];
    pieces.forEach((piece, index) => this.#showAt(index, piece));
    this.#drop(pieces.length);
    const done = this.#records.splice(0, settled.length);
    for (const record of done) if (record.node !== null) this.#last = record;
  }

  #showAt(index, piece) {
    const record = this.#records[index];
    if (record !== undefined && isSameBlock(record.piece, piece)) {
      if (record.piece.raw !== piece.raw && record.node !== null) patch(record.node, nodeOf(piece));
      record.piece = piece;
      return;
    }
    this.#drop(index);
    this.#records.push(this.#place(piece));
  }

  #place(piece) {
    if (piece.kind === "blank") return { piece, shell: null, home: null, node: null };
    const before = this.#before;
    const node = nodeOf(piece);
    const isPart = piece.continues && before !== null && before.home !== this.#container;
    const [shell, home] = isPart ? [null, homeOf(before, piece)] : shellOf(piece, this.#container);
    if (shell !== null) this.#container.append(shell);
    home.append(node);
    return { piece, shell, home: piece.isRest ? before.home : home, node };
  }

  get #before() {
    return this.#records.findLast((record) => record.node !== null) ?? this.#last;
  }

  #drop(from) {
    for (const { shell, node } of this.#records.splice(from).reverse()) (shell ?? node)?.remove();
  }
}

/** The rest of an item that got long goes into that item, all others beside it. */
const homeOf = (before, piece) => (piece.isRest ? before.home.lastElementChild : before.home);

const isSameBlock = (one, other) =>
  one.kind === other.kind && one.continues === other.continues && one.language === other.language &&
  one.isOrdered === other.isOrdered && one.isChecked === other.isChecked && one.isRest === other.isRest && one.start === other.start && one.level === other.level &&
  String(one.head) === String(other.head) && String(one.align) === String(other.align);

/** @returns {[Element | null, Element]} the shell, and what of it holds the pieces */
function shellOf(piece, container) {
  if (piece.kind === "item") return alone(listOf(piece));
  if (piece.kind === "quote") return alone(make("blockquote"));
  if (piece.kind === "table") return tableOf(piece);
  if (piece.kind === "code") return codeOf(piece);
  return [null, container];
}

const alone = (shell) => [shell, shell];

const listOf = ({ isOrdered, start }) => make(isOrdered ? "ol" : "ul", { start: isOrdered && start !== 1 ? String(start) : null });

function codeOf({ language }) {
  const home = make("code");
  const name = language ? `Code, ${language}` : "Code";
  const copy = make("button", { type: "button", class: "copy", "aria-label": "Copy code", title: "Copy code" });
  const pre = make("pre", { tabindex: "0", role: "group", "aria-label": name }, home); // to be scrolled by keyboard
  return [make("div", { class: "code", "data-language": language || null }, copy, pre), home];
}

function tableOf({ head, align }) {
  const headOf = (text, index) => (text ? cell("th", text, align[index], { scope: "col" }) : cell("td", "")); // the corner
  const cells = (head ?? []).map(headOf);
  const home = make("table", {}, make("thead", {}, make("tr", {}, ...cells)));
  return [make("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, home), home];
}

function nodeOf(piece) {
  switch (piece.kind) {
    case "heading": return words(make(`h${Math.min(piece.level + 2, 6)}`, { class: `level-${piece.level}` }), piece.text);
    case "rule": return make("hr");
    case "code": return make("span", { class: "lines" }, piece.text);
    case "table": return make("tbody", {}, ...piece.rows.map((row) => rowOf(row, piece.align)));
    case "quote": return nested(make("div"), piece);
    case "item": return nested(make(piece.isRest ? "div" : "li", { class: taskClass(piece) }), piece);
    default: return words(make("p", { class: piece.continues ? "continued" : null }), piece.text);
  }
}

const taskClass = ({ isChecked }) => (isChecked === null || isChecked === undefined ? null : isChecked ? "task done" : "task");

function nested(element, { children }) {
  new Rendering(element).show({ settled: children, open: [] });
  return element;
}

function rowOf(cells, align) {
  const missing = align.length - cells.length;
  const rest = missing > 0 ? [make("td", { colspan: String(missing) })] : [];
  return make("tr", {}, ...cells.map((text, index) => cell("td", text, align[index])), ...rest);
}

const cell = (name, text, align, attributes = {}) =>
  words(make(name, { class: align ? `to-${align}` : null, ...attributes }), text);

function words(element, text) {
  element.append(...inline(text).map(inlineNode));
  return element;
}

function inlineNode(node) {
  if (typeof node === "string") return node;
  if (node.kind === "code") return make("code", {}, node.text);
  const children = node.children.map(inlineNode);
  if (node.kind !== "link") return make(node.kind, {}, ...children);
  return make("a", { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

// -- changing what is there ------------------------------------------------------------------------------------------

/** Makes `old` like `fresh`, and leaves alone what is alike. Text that grew is appended to. */
function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.length));
    else old.data = fresh.data;
    return;
  }
  const wanted = [...fresh.childNodes];
  wanted.forEach((child, index) => {
    const mine = old.childNodes[index];
    if (mine === undefined) old.append(child);
    else if (isAlike(mine, child)) patch(mine, child);
    else mine.replaceWith(child);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

function isAlike(one, other) {
  if (one.nodeName !== other.nodeName) return false;
  if (one.nodeType === Node.TEXT_NODE) return true;
  return one.attributes.length === other.attributes.length
    && [...one.attributes].every(({ name, value }) => other.getAttribute(name) === value);
}
