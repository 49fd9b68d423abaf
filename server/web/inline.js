/**
 * The inside of a line of markdown, as a tree of plain objects: emphasis, code, links. Makes no DOM, loads nothing.
 *
 * A part of CommonMark 0.31 (https://spec.commonmark.org/0.31.2/) with GitHub's strikethrough and autolinks. HTML is
 * text. An image is a link to it: what a model names is not fetched.
 *
 * @typedef {string | {kind: "code", text: string}
 *   | {kind: "strong" | "em" | "del", children: Inline[], depth: number}
 *   | {kind: "link", href: string, children: Inline[], depth: number}} Inline
 */

/** What a link may lead to. */
const PROTOCOLS = new Set(["http:", "https:", "mailto:"]);

/** Deeper emphasis is shown as it was written: nobody means it, and a tree of a thousand levels is slow to lay out. */
const MAX_DEPTH = 12;

const MAX_LABEL = 500;
const MAX_HREF = 2_000;

const SPECIAL = /[\\`*_~[!<]|https?:\/\//g;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~\n]/;
const TARGET = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\([^\s()]*\))*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;
const BARE = /https?:\/\/[^\s<>"'`*|\\^{}[\]]+/y;
const ANGLE = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;

/** @param {string} text @param {boolean} [mayLink] false inside a link @returns {Inline[]} */
export function inline(text, mayLink = true) {
  const out = [];
  const openers = new Openers();
  for (let at = 0; at < text.length; ) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (found === null) {
      out.push(text.slice(at));
      break;
    }
    if (found.index > at) out.push(text.slice(at, found.index));
    at = found.index;
    const [node, end] = special(text, at, mayLink);
    if (node.mark) close(out, node, openers);
    else out.push(node);
    at = end;
  }
  return settled(out);
}

/** An address that may be followed; null for any other. @param {string} address */
export function safeHref(address) {
  if (address.length > MAX_HREF) return null;
  try {
    const url = new URL(address); // drops the line breaks and tabs that would hide a scheme from us
    return PROTOCOLS.has(url.protocol) ? url.href : null;
  } catch {
    return null; // also what is relative: a model knows nothing that is beside this page
  }
}

/** What begins with a special character: the node, and where it ends. */
function special(text, at, mayLink) {
  const found = {
    "\\": escaped, "`": code, "[": link, "!": image, "<": angle, "*": mark, "_": mark, "~": mark,
  }[text[at]] ?? bare;
  return found(text, at, mayLink) ?? [text[at], at + 1];
}

function escaped(text, at) {
  const next = text[at + 1] ?? "";
  return ESCAPABLE.test(next) ? [next, at + 2] : null;
}

function code(text, at) {
  const ticks = /`+/y;
  ticks.lastIndex = at;
  const [fence] = ticks.exec(text);
  const start = at + fence.length;
  for (let end = text.indexOf(fence, start); end >= 0; end = text.indexOf(fence, end)) {
    ticks.lastIndex = end;
    const run = ticks.exec(text)[0].length;
    if (run === fence.length) return [{ kind: "code", text: stripped(text.slice(start, end)) }, end + run];
    end += run;
  }
  return [fence, start];
}

/** "If the string both begins and ends with a space but does not consist entirely of spaces, one is removed." */
const stripped = (text) => (/^ .*[^ ].* $|^ [^ ] $/s.test(text) ? text.slice(1, -1) : text);

function link(text, at, mayLink) {
  if (!mayLink) return null;
  const end = labelEnd(text, at);
  if (end < 0 || text[end + 1] !== "(") return null;
  TARGET.lastIndex = end + 1;
  const target = TARGET.exec(text);
  const href = target && safeHref((target[1] ?? target[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"));
  if (!href) return null;
  return [linkTo(href, inline(text.slice(at + 1, end), false)), TARGET.lastIndex];
}

function image(text, at, mayLink) {
  return text[at + 1] === "[" ? link(text, at + 1, mayLink) : null;
}

const linkTo = (href, children) => ({ kind: "link", href, children, depth: 1 + depthOf(children) });

/** Where the bracket that is open at `at` is closed; -1 where it is not. */
function labelEnd(text, at) {
  const last = Math.min(text.length, at + MAX_LABEL);
  if (text.indexOf("](", at) < 0) return -1;
  for (let here = at, open = 0; here < last; here += 1) {
    if (text[here] === "\\") here += 1;
    else if (text[here] === "[") open += 1;
    else if (text[here] === "]" && --open === 0) return here;
  }
  return -1;
}

function angle(text, at, mayLink) {
  ANGLE.lastIndex = at;
  const found = mayLink && ANGLE.exec(text);
  const href = found && safeHref(found[1]);
  return href ? [linkTo(href, [found[1].replace(/^mailto:/, "")]), ANGLE.lastIndex] : null;
}

/** An address that stands in the text. A bracket or a stop behind it is not part of it. */
function bare(text, at, mayLink) {
  BARE.lastIndex = at;
  const found = BARE.exec(text);
  if (!found) return null;
  let address = found[0].replace(/[.,:;!?_~]+$/, "");
  let surplus = address.split(")").length - address.split("(").length;
  while (surplus-- > 0 && address.endsWith(")")) address = address.slice(0, -1);
  const href = mayLink && !/\w/.test(text[at - 1] ?? "") ? safeHref(address) : null;
  return href ? [linkTo(href, [address]), at + address.length] : [address || text[at], at + (address.length || 1)];
}

// -- emphasis: https://spec.commonmark.org/0.31.2/#emphasis-and-strong-emphasis ------------------------------------

/** A run of one character that may open or close emphasis. */
function mark(text, at) {
  const sign = text[at];
  let end = at;
  while (text[end] === sign) end += 1;
  const [before, after] = [text[at - 1] ?? "", text[end] ?? ""];
  const left = isFlanking(before, after);
  const right = isFlanking(after, before);
  const isWord = sign === "_"; // inside_a_word it means nothing
  const node = {
    mark: sign,
    count: end - at,
    opens: left && (!isWord || !right || PUNCTUATION.test(before)),
    closes: right && (!isWord || !left || PUNCTUATION.test(after)),
  };
  return sign === "~" && node.count !== 2 ? ["~".repeat(node.count), end] : [node, end];
}

const isSpace = (character) => character === "" || /\s/.test(character);

const isFlanking = (outside, inside) =>
  !isSpace(inside) && (!PUNCTUATION.test(inside) || isSpace(outside) || PUNCTUATION.test(outside));

/** Closes what `closer` closes of `out`, the nearest first; what is left of it may open something itself. */
function close(out, closer, openers) {
  while (closer.closes && closer.count > 0) {
    const at = openers.last(out, closer);
    if (at < 0) break;
    const opener = out[at];
    const children = settled(out.slice(at + 1));
    const depth = 1 + depthOf(children);
    if (depth > MAX_DEPTH || children.length === 0) break;
    const count = Math.min(opener.count, closer.count, 2);
    out.length = opener.count > count ? at + 1 : at;
    openers.cut(out.length);
    opener.count -= count;
    closer.count -= count;
    out.push({ kind: closer.mark === "~" ? "del" : count === 2 ? "strong" : "em", children, depth });
  }
  if (closer.count > 0 && closer.opens) openers.add(closer.mark, out.length);
  if (closer.count > 0) out.push(closer.opens ? closer : closer.mark.repeat(closer.count));
}

/**
 * Where what may open something stands, by its mark. What was looked for in vain is not looked for there again
 * (`openers_bottom` of the CommonMark algorithm): else a line of marks takes a time that grows with its square.
 */
class Openers {
  #places = { "*": [], _: [], "~": [] };
  #bottoms = new Map(); // kind of closer → how many of the places were looked at in vain

  add(mark, place) {
    this.#places[mark].push(place);
  }

  /** The last one that fits; -1 where none does. */
  last(out, closer) {
    const places = this.#places[closer.mark];
    const kind = `${closer.mark}${closer.opens}${closer.count % 3}`;
    const bottom = Math.min(this.#bottoms.get(kind) ?? 0, places.length);
    for (let index = places.length - 1; index >= bottom; index -= 1) {
      if (fits(out[places[index]], closer)) return places[index];
    }
    this.#bottoms.set(kind, places.length);
    return -1;
  }

  /** What stands at or behind this place is gone. */
  cut(length) {
    for (const places of Object.values(this.#places)) while (places.length > 0 && places.at(-1) >= length) places.pop();
    for (const [kind, bottom] of this.#bottoms) {
      this.#bottoms.set(kind, Math.min(bottom, this.#places[kind[0]].length));
    }
  }
}

/** "If one of the delimiters can both open and close emphasis, the sum of the lengths must not be a multiple of 3." */
const fits = (opener, closer) =>
  !(opener.closes || closer.opens) || (opener.count + closer.count) % 3 !== 0 ||
  (opener.count % 3 === 0 && closer.count % 3 === 0);

const depthOf = (nodes) => nodes.reduce((deepest, node) => Math.max(deepest, node.depth ?? 0), 0);

/** Marks that opened nothing are text; texts side by side are one. */
function settled(nodes) {
  const out = [];
  for (const node of nodes) {
    const plain = node.mark ? node.mark.repeat(node.count) : node;
    if (typeof plain === "string" && typeof out.at(-1) === "string") out[out.length - 1] += plain;
    else out.push(plain);
  }
  return out;
}
