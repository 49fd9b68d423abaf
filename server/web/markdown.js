/**
 * Markdown that is still being written, as a sequence of pieces. Makes no DOM; what is inside a line is inline.js's.
 *
 * A piece is a block, or a part of one that got long: a list comes item by item, a table and code by some rows, a
 * paragraph without an end by some thousand characters. Pieces tile the text: each ends where the next begins. So only
 * the last one or two, which may still change their meaning, are ever read again, however long the answer gets.
 *
 * A part of CommonMark 0.31 and of GitHub's tables. Left out: HTML (it is text), indented code, underlined headings,
 * link references. A line break in a paragraph is a line break: that is how models use it.
 *
 * @typedef {object} Piece
 * @property {"heading" | "paragraph" | "code" | "quote" | "item" | "table" | "rule" | "blank"} kind
 * @property {string} raw the text it covers
 * @property {boolean} continues it belongs to the block of the piece before
 * @property {number} end where it ends in the text that was parsed
 * @property {object | null} after what the next piece has to know
 * @property {string} [text] of a heading, a paragraph, code
 * @property {number} [level] of a heading
 * @property {string} [language] of code
 * @property {Piece[]} [children] of a quote, an item
 * @property {boolean} [isOrdered] @property {number} [start] @property {boolean | null} [isChecked] of an item
 * @property {("left" | "center" | "right" | null)[]} [align] @property {string[]} [head]
 * @property {string[][]} [rows] of a table
 */

/** A piece that is longer ends at the next chance. */
export const MAX_PIECE = 4_000;

/** A line that is longer is no heading, no fence and no head of a table. */
export const MAX_LINE = 1_000;

/** A table that is wider is text. */
export const MAX_COLUMNS = 100;

/** Deeper quotes and lists are text. */
const MAX_DEPTH = 8;

const MAX_INFO = 100;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const MARKER = /^( {0,3})([-*+]|(\d{1,9})([.)]))( +(?=\S)|$)/;
const QUOTED = /^ {0,3}> ?/;
const CHECK = /^\[([ xX])\] (?=\S)/;

/** Text that grows. */
export class Markdown {
  #tail = ""; // what is not settled
  #context = null; // of the piece before it

  /**
   * @param {string} text what came
   * @returns {{settled: Piece[], open: Piece[]}} those that will not change any more, each given once; then those
   *   that still may, all of them
   */
  append(text) {
    this.#tail += text;
    const open = parse(this.#tail, this.#context);
    let count = 0;
    while (count < open.length - 1 && isSettled(this.#tail, open[count].end)) count += 1;
    const settled = open.splice(0, count);
    if (count > 0) {
      this.#tail = this.#tail.slice(settled[count - 1].end);
      this.#context = settled[count - 1].after;
    }
    return { settled, open };
  }
}

/** Whether a boundary stays: it hangs on the line behind it and the one after that (a table's second), no others. */
function isSettled(text, end) {
  const first = text.indexOf("\n", end);
  if (first < 0) return text.length - end > MAX_LINE;
  return text.indexOf("\n", first + 1) >= 0 || text.length - first - 1 > MAX_LINE;
}

/** @param {string} source @param {object | null} [context] `after` of the piece before @returns {Piece[]} */
export function parse(source, context = null, depth = 0) {
  const pieces = [];
  for (let at = 0; at < source.length; ) {
    const made = next(source, at, context, depth);
    const end = made.holdsBlanks ? made.end : blanksEnd(source, made.end);
    const piece = { continues: false, after: null, ...made, end, raw: source.slice(at, end) };
    pieces.push(piece);
    at = end;
    context = piece.after;
  }
  return pieces;
}

function next(source, at, context, depth) {
  const going = context && goesOn[context.kind](source, at, context, depth);
  if (going) return { ...going, continues: true };
  const line = lineAt(source, at);
  if (isBlank(line.text)) return { kind: "blank", end: line.end };
  if (isTable(source, at, line)) return table(source, at);
  const found = blockOf(line.text, depth);
  return found === null ? paragraph(source, at, depth) : found.read(source, at, depth);
}

/** What may follow a piece as part of the same block. */
const goesOn = {
  paragraph: (source, at, _, depth) => paragraph(source, at, depth, true),
  code: (source, at, context) => code(source, at, context, at),
  table: (source, at, { align }) => isRow(lineAt(source, at).text) && rows(source, at, { align }, at),
  quote: (source, at, context, depth) => QUOTED.test(lineAt(source, at).text) && quote(source, at, depth, context.inner),
  item: (source, at, context, depth) => belongs(lineAt(source, at).text, context.wasBlank, depth)
    && body(source, at, at, [], context, depth),
  list: (source, at, { sign }, depth) => {
    const line = lineAt(source, at).text;
    const found = !isRule(line) && MARKER.exec(line);
    return found && signOf(found) === sign && item(source, at, depth);
  },
};

// -- lines -----------------------------------------------------------------------------------------------------------

/** The line at `at` without its end, and where the next begins. */
function lineAt(source, at) {
  const found = source.indexOf("\n", at);
  const end = found < 0 ? source.length : found + 1;
  const text = source.slice(at, found < 0 ? end : found);
  return { text: text.endsWith("\r") ? text.slice(0, -1) : text, end };
}

const isBlank = (line) => /^[ \t]*$/.test(line);

function blanksEnd(source, at) {
  while (at < source.length) {
    const line = lineAt(source, at);
    if (!isBlank(line.text)) break;
    at = line.end;
  }
  return at;
}

const isRule = (line) => line.length <= MAX_INFO && RULE.test(line);

/** What begins with this line, tables and paragraphs apart; null: text. */
function blockOf(line, depth) {
  const fence = line.length <= MAX_LINE && FENCE.exec(line);
  if (fence && fence[2].length <= MAX_INFO) return { read: fenced };
  if (line.length <= MAX_LINE && HEADING.test(line)) return { read: heading };
  if (isRule(line)) return { read: rule };
  if (depth >= MAX_DEPTH) return null;
  if (QUOTED.test(line)) return { read: quote };
  return MARKER.test(line) ? { read: item } : null;
}

/** Whether a line ends the paragraph before it. An empty item or a number other than 1 does not: "in the year\n1984." */
function interrupts(line, depth) {
  const found = MARKER.exec(line);
  if (found && !isRule(line) && (found[5] === "" || (found[3] !== undefined && Number(found[3]) !== 1))) return false;
  return blockOf(line, depth) !== null;
}

// -- blocks of one line ----------------------------------------------------------------------------------------------

function heading(source, at) {
  const { text, end } = lineAt(source, at);
  const sign = HEADING.exec(text);
  const words = text.slice(sign[0].length).trim().replace(/(?:^|[ \t]+)#+$/, "");
  return { kind: "heading", level: sign[1].length, text: words, end };
}

function rule(source, at) {
  return { kind: "rule", end: lineAt(source, at).end };
}

// -- paragraphs ------------------------------------------------------------------------------------------------------

/** Keeps spaces and line breaks as they are: what is shown of plain text is the text. */
function paragraph(source, at, depth, isCut = false) {
  let { text, end } = lineAt(source, at);
  if (isCut && isBlank(text)) return null;
  while (end < source.length && end - at <= MAX_PIECE) {
    const line = lineAt(source, end);
    if (isBlank(line.text) || isTable(source, end, line) || interrupts(line.text, depth)) break;
    end = line.end;
  }
  if (end - at <= MAX_PIECE) {
    text = source.slice(at, end).replace(/\r?\n$/, "");
    return { kind: "paragraph", text, end };
  }
  end = cut(source, at);
  return { kind: "paragraph", text: source.slice(at, end), end, after: { kind: "paragraph" }, holdsBlanks: true };
}

/** Behind the last white space that a piece has room for. */
function cut(source, at) {
  const most = at + MAX_PIECE;
  for (let end = most; end > at; end -= 1) if (/\s/.test(source[end - 1])) return end;
  const isHalf = /[\uD800-\uDBFF]/.test(source[most - 1]); // of a character that takes two
  return isHalf ? most - 1 : most;
}

// -- code ------------------------------------------------------------------------------------------------------------

function fenced(source, at) {
  const { text, end } = lineAt(source, at);
  const [, fence, info] = FENCE.exec(text);
  const language = info.trim().split(/\s/)[0];
  return code(source, end, { kind: "code", fence, indent: indentOf(text), language }, at);
}

function code(source, at, context, start) {
  const { fence, indent, language } = context;
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  let text = "";
  while (at < source.length) {
    const line = lineAt(source, at);
    if (line.text.length <= MAX_LINE && closing.test(line.text)) return { kind: "code", language, text, end: line.end };
    text += line.text.slice(Math.min(indent, indentOf(line.text))) + (source[line.end - 1] === "\n" ? "\n" : "");
    at = line.end;
    if (at - start > MAX_PIECE) break;
  }
  return { kind: "code", language, text, end: at, after: context, holdsBlanks: true };
}

const indentOf = (line) => /^ */.exec(line)[0].length;

// -- quotes and lists ------------------------------------------------------------------------------------------------

function quote(source, at, depth, inner = null) {
  const lines = [];
  let end = at;
  let isLong = false;
  while (end < source.length && !isLong) {
    const line = lineAt(source, end);
    const sign = QUOTED.exec(line.text);
    if (sign === null) break;
    lines.push(line.text.slice(sign[0].length));
    end = line.end;
    isLong = end - at > MAX_PIECE;
  }
  const children = parse(lines.join("\n"), inner, depth + 1);
  const after = isLong ? { kind: "quote", inner: children.at(-1)?.after ?? null } : null;
  return { kind: "quote", children, end, after, holdsBlanks: isLong };
}

const signOf = (marker) => (marker[4] === undefined ? marker[2] : marker[4]);

function item(source, at, depth) {
  const { text, end } = lineAt(source, at);
  const found = MARKER.exec(text);
  const room = found[5].length;
  const width = found[0].length - room + Math.min(Math.max(room, 1), 4);
  const rest = text.slice(found[0].length);
  const check = CHECK.exec(rest);
  const context = {
    kind: "item", indent: width, sign: signOf(found), isOrdered: found[3] !== undefined, start: Number(found[3] ?? 0),
    isChecked: check && check[1] !== " ", inner: null, wasBlank: false,
  };
  return body(source, at, end, [check ? rest.slice(check[0].length) : rest], context, depth);
}

/** The lines of an item from `at` on. */
function body(source, start, at, lines, context, depth) {
  let { wasBlank } = context;
  let isLong = false;
  let end = at; // behind the last line that is not blank
  for (const held = []; at < source.length && !isLong; ) {
    const line = lineAt(source, at);
    at = line.end;
    if (isBlank(line.text)) {
      wasBlank = true;
      held.push("");
      continue;
    }
    if (!belongs(line.text, wasBlank, depth)) break;
    lines.push(...held.splice(0), line.text.slice(Math.min(context.indent, indentOf(line.text))));
    wasBlank = false;
    end = at;
    isLong = end - start > MAX_PIECE;
  }
  const children = parse(lines.join("\n"), context.inner, depth + 1);
  const { isOrdered, start: number, isChecked, sign } = context;
  const after = isLong
    ? { ...context, isCut: true, wasBlank: false, inner: children.at(-1)?.after ?? null }
    : { kind: "list", sign };
  const isRest = context.isCut === true; // of an item that got long
  return { kind: "item", isOrdered, start: number, isChecked, isRest, children, end, after };
}

/** Whether a line that is not blank goes on with the item above it. Two spaces are enough: models are not exact. */
function belongs(line, wasBlank, depth) {
  if (indentOf(line) >= 2) return true;
  return !wasBlank && !isBlank(line) && !MARKER.test(line) && blockOf(line, depth) === null;
}

// -- tables: https://github.github.com/gfm/#tables-extension- --------------------------------------------------------

/** A line that may be a head, and below it one of dashes with as many cells. */
function isTable(source, at, line) {
  if (line.text.length > MAX_LINE || !line.text.includes("|") || line.end >= source.length) return false;
  if (source[line.end - 1] !== "\n") return false;
  const below = lineAt(source, line.end).text;
  if (below.length > MAX_LINE || !/^[ \t|:-]*-[ \t|:-]*$/.test(below)) return false;
  const marks = cells(below);
  if (marks.length > MAX_COLUMNS) return false;
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cells(line.text).length;
}

function table(source, at) {
  const first = lineAt(source, at);
  const second = lineAt(source, first.end);
  const align = cells(second.text).map((mark) => {
    if (!mark.endsWith(":")) return mark.startsWith(":") ? "left" : null;
    return mark.startsWith(":") ? "center" : "right";
  });
  return rows(source, second.end, { align, head: cells(first.text) }, at);
}

const isRow = (line) => line.includes("|") && line.length <= MAX_PIECE && blockOf(line, 0) === null;

function rows(source, at, { align, head = null }, start) {
  const found = [];
  for (let line; at < source.length && at - start <= MAX_PIECE; at = line.end) {
    line = lineAt(source, at);
    if (!isRow(line.text)) return { kind: "table", align, head, rows: found, end: at };
    const given = cells(line.text).slice(0, align.length);
    // As many as the table has columns; but a line of one bar is not a hundred empty cells: rendering.js spans them.
    if (given.length * 4 >= align.length) while (given.length < align.length) given.push("");
    found.push(given);
  }
  return { kind: "table", align, head, rows: found, end: at, after: { kind: "table", align }, holdsBlanks: true };
}

/** What stands between the bars that are not escaped. */
function cells(line) {
  const found = [];
  let cell = "";
  const inside = line.trim().replace(/^\|/, "");
  for (let at = 0; at < inside.length; at += 1) {
    if (inside[at] === "\\" && inside[at + 1] === "|") cell += inside[(at += 1)];
    else if (inside[at] !== "|") cell += inside[at];
    else {
      found.push(cell.trim());
      cell = "";
    }
  }
  if (cell.trim() !== "" || found.length === 0) found.push(cell.trim());
  return found;
}
