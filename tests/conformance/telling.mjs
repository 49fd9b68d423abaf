// What a client's program is given and how it tells what became of its cases: `telling.py` in JavaScript.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";

export const given = JSON.parse(process.env.CONFORMANCE ?? "{}");
export const TEXT = "scripted?tokens=12&interval_ms=5";
export const words = (count, from = 0) => Array.from({ length: count }, (_, n) => `w${n + from} `).join("");
export const WORDS = words(12);
export const LONG = "scripted?tokens=100000&interval_ms=10";
export const SILENT = "scripted?tokens=2&first_ms=2500&interval_ms=2500"; // heartbeats come before and between its tokens
export const BROKEN = "scripted?tokens=12&fail_after=5";
export const CALLING = "scripted?tokens=9&tool_after=4";
export const CALLED = [words(4), words(5, 4)];
export const PICTURE =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const THOUGHT = "Let me see.";
export const PARAMETERS = { type: "object", properties: { expression: { type: "string" } } };
const WAIT_MS = 30_000;

const cases = new Map();
export const test = (name, run) => cases.set(name, run);
export const same = (found, wanted) => assert.deepEqual(found, wanted);
export const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function runAll() {
  for (const [name, run] of cases) {
    try {
      await run();
      say({ case: name, error: null });
    } catch (error) {
      say({ case: name, error: String(error?.stack ?? error) });
    }
  }
  process.exit(0); // some keep their connections open
}

/** The k-th program of a page, as it stands but for the address and the key; a module. */
export async function program(page, k, edge = "first") {
  const text = readFileSync(`${given.docs}/${page}`, "utf8");
  const blocks = [...text.matchAll(/```js\n([^]*?)```/g)].map((found) => found[1]);
  const at = new URL(`./page-${k}.mjs`, import.meta.url);
  writeFileSync(at, blocks[k].replace("https://relay.example", given[edge]).replace("a-key-of-the-server", given.key));
  return import(at);
}

export async function rejects(run) {
  try {
    await run();
  } catch (error) {
    return error;
  }
  throw new Error("no error");
}

export async function ask(method, path) {
  const headers = { Authorization: `Bearer ${given.key}`, Accept: "application/json" };
  const answer = await fetch(given.first + path, { method, headers });
  return answer.json();
}

export async function until(holds, what) {
  const end = Date.now() + WAIT_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`still not: ${what}`);
    await sleep(50);
  }
}

export const untilState = (id, wanted) =>
  until(async () => (await ask("GET", `/api/streams/${id}`)).state === wanted, wanted);
