/**
 * Markdown that is still being written: whatever the pieces it comes in, what has settled is right and stays.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { inline, safeHref } from "../../server/web/inline.js";
import { MAX_PIECE, Markdown, parse } from "../../server/web/markdown.js";

const DOCUMENTS = [
  "",
  "plain words, *some* of them **strong**\nand a second line\n\nanother paragraph",
  "# One\n## Two ##\n\n---\ntext\n***\n",
  "```js\nconst a = `b`;\n\n# no heading\n```\nafter\n~~~\n```\n~~~\n",
  "```py\nnever closed\n\n  indented\n",
  "- one\n- two\n  more of two\n\n  a paragraph of two\n  - inner\n    1. deep\n- [x] done\n- [ ] open\n\n1. first\n2. second\n",
  "> quoted\n> - item\n>   ```\n>   code\n>   ```\nnot quoted\n",
  "| a | b |\n|:--|--:|\n| 1 | `x\\|y` |\n| 2 |\nafter\n",
  "a | b\nno table\n| c |\n| --- |\n| d |\n",
  "\r\n\r\nwindows\r\n\r\n- a\r\n- b\r\n",
  "what looks like a block\n#hashtag\n-dash\n>quote\n---x\n```a`b\n1.5 is a number\n",
  "in the year\n1984. It was\n1. a list\n",
  "😀".repeat(50) + "\n\n" + "word ".repeat(3_000) + "\n\nthe end",
  "```\n" + "line of code\n".repeat(900) + "```\nthe end\n",
  Array.from({ length: 400 }, (_, row) => `- item ${row}`).join("\n"),
  "| n |\n| - |\n" + Array.from({ length: 900 }, (_, row) => `| row ${row} |`).join("\n") + "\n\nthe end",
];

/** The same numbers on every run: mulberry32. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function* chunks(text, next, most) {
  for (let at = 0; at < text.length; ) {
    const end = at + 1 + Math.floor(next() * most);
    yield text.slice(at, end);
    at = end;
  }
}

const shapeOf = (piece) => ({ ...piece, after: null, end: null, children: piece.children?.map(shapeOf) });

for (const [number, text] of DOCUMENTS.entries()) {
  test(`document ${number}: pieces tile the text`, () => {
    assert.equal(parse(text).map(({ raw }) => raw).join(""), text);
  });

  test(`document ${number}: the pieces are the same however the text comes`, () => {
    const next = random(number + 1);
    for (const most of text.length > 2_000 ? [40, 900] : [1, 2, 7, 40]) {
      const markdown = new Markdown();
      const settled = [];
      let last = [];
      for (const chunk of chunks(text, next, most)) {
        const { settled: more, open } = markdown.append(chunk);
        settled.push(...more);
        last = open;
      }
      assert.deepEqual([...settled, ...last].map(shapeOf), parse(text).map(shapeOf), `chunks of at most ${most}`);
    }
  });
}

test("what is read again stays small however long the text gets", () => {
  for (const line of ["word ", "word word\n", "- item\n", "| a | b |\n", "> quoted\n", "code\n\n", "\n", "w*", "[x](", "`"]) {
    const markdown = new Markdown();
    markdown.append(line.startsWith("|") ? "| a | b |\n|---|---|\n" : line.startsWith("code") ? "```\n" : "");
    let most = 0;
    for (let count = 0; count < 4_000; count += 1) {
      const { open } = markdown.append(line);
      most = Math.max(most, open.reduce((sum, { raw }) => sum + raw.length, 0));
    }
    assert.ok(most <= 2 * MAX_PIECE + 2_100, `${JSON.stringify(line)}: ${most} characters`);
  }
});

test("no input takes a time that grows with its square", { timeout: 60_000 }, () => {
  for (const piece of ["*a **b ", "[", "![a](", "`` ` ", "_*", "<http://", "> ", "- ", "~~~~", "\\", "((", "[a](((("]) {
    const text = piece.repeat(20_000); // what is quadratic takes minutes
    assert.equal(parse(text).map(({ raw }) => raw).join(""), text);
    for (const { text: inner } of parse(text)) if (inner !== undefined) inline(inner);
  }
});

test("a piece of marks takes no time that grows with its square, and a table few cells a character", () => {
  const started = performance.now();
  for (const piece of ["a* b_ ", " a*", "*a ", "***a**b*", "http://a)", "http://" + ")".repeat(3_000)]) {
    for (let count = 0; count < 20; count += 1) inline(piece.repeat(Math.ceil(100_000 / piece.length)));
  }
  assert.ok(performance.now() - started < 40_000, "what is quadratic takes minutes"); // linear: about a second
  for (const columns of [60, 500]) {
    const text = `${"|a".repeat(columns)}|\n${"|-".repeat(columns)}|\n${"|\n".repeat(2_000)}`;
    const cells = parse(text).reduce((sum, { rows = [] }) => sum + rows.reduce((all, row) => all + row.length, 0), 0);
    assert.ok(cells < 2 * text.length, `${cells} cells for ${text.length} characters`);
  }
});

test("blocks", () => {
  const kinds = (text) => parse(text).map(({ kind }) => kind);
  assert.deepEqual(kinds("# a\nb\n\n---\n```\nc\n```\n> d\n"), ["heading", "paragraph", "rule", "code", "quote"]);
  assert.deepEqual(kinds("#hashtag"), ["paragraph"]);
  assert.deepEqual(kinds("<script>alert(1)</script>"), ["paragraph"]);
  const [table] = parse("| a | b |\n|:-:|--:|\n| 1 | 2 |\n");
  assert.deepEqual([table.kind, table.head, table.align, table.rows], ["table", ["a", "b"], ["center", "right"], [["1", "2"]]]);
  const [code] = parse("```js x=1\nlet a;\n\n```\n");
  assert.deepEqual([code.language, code.text], ["js", "let a;\n\n"]);
});

test("inside a line", () => {
  const kinds = (text) => inline(text).map((node) => (typeof node === "string" ? node : { [node.kind]: node.text ?? kinds2(node) }));
  const kinds2 = ({ children }) => children.map((node) => (typeof node === "string" ? node : { [node.kind]: node.text ?? kinds2(node) }));
  const table = [
    ["a *b* c", ["a ", { em: ["b"] }, " c"]],
    ["**b *c***", [{ strong: ["b ", { em: ["c"] }] }]],
    ["snake_case_name", ["snake_case_name"]],
    ["2 * 3 * 4", ["2 * 3 * 4"]],
    ["~~no~~", [{ del: ["no"] }]],
    ["`` a`b ``", [{ code: "a`b" }]],
    ["\\*not\\*", ["*not*"]],
    ["<b>x</b>", ["<b>x</b>"]],
    ["[a *b*](https://x.example/)", [{ link: ["a ", { em: ["b"] }] }]],
    ["see https://x.example/a_(b)).", ["see ", { link: ["https://x.example/a_(b)"] }, ")."]],
    ["![alt](https://x.example/i.png)", [{ link: ["alt"] }]],
    ["[a](javascript:alert(1))", ["[a](javascript:alert(1))"]],
  ];
  for (const [text, wanted] of table) assert.deepEqual(kinds(text), wanted, text);
});

test("a link leads to the web or to a mailbox and nowhere else", () => {
  for (const good of ["https://x.example/", "http://x.example/?a=b#c", "mailto:a@x.example", "HTTPS://X.example"]) {
    assert.notEqual(safeHref(good), null, good);
  }
  for (const bad of [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\nscript:alert(1)", " \tjavascript:alert(1)", "\u0001javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>", "vbscript:x", "file:///etc/passwd", "blob:https://x.example/1",
    "//x.example/", "/api/streams", "x", "", "https://", `https://x.example/${"a".repeat(3_000)}`,
  ]) assert.equal(safeHref(bad), null, bad);
});
