// The conformance cases of protocol/vectors, as the Python suite reads them too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { SSEDecoder } from "../sse.js";

const read = (name) => JSON.parse(readFileSync(new URL(`../../../protocol/vectors/${name}`, import.meta.url), "utf8"));
const bytes = (latin1) => Uint8Array.from(latin1, (character) => character.charCodeAt(0));
const utf8 = new TextEncoder();

function decode(chunks) {
  const decoder = new SSEDecoder();
  const frames = chunks.flatMap((chunk) => decoder.feed(chunk));
  return { frames, retry: decoder.retryMs, last_event_id: decoder.lastEventId };
}

/** How a client reads that splits each network read at line ends and looks for `data: `. */
function splitLines(text) {
  return text
    .split("\n")
    .filter((line) => line.startsWith("data: "))
    .map((line) => JSON.parse(line.slice(6)));
}

describe("sse_decode", () => {
  for (const { name, chunks, each_byte: eachByte, frames, retry, last_event_id } of read("sse_decode.json").cases) {
    const expected = { frames, retry, last_event_id };
    const whole = bytes(chunks.join(""));
    test(name, () => {
      assert.deepEqual(decode(chunks.map(bytes)), expected);
      assert.deepEqual(decode([whole]), expected, "all in one");
      if (eachByte) assert.deepEqual(decode(Array.from(whole, (byte) => Uint8Array.of(byte))), expected, "each byte");
      for (let cut = 0; cut <= whole.length; cut += 1) {
        assert.deepEqual(decode([whole.subarray(0, cut), whole.subarray(cut)]), expected, `cut after ${cut} bytes`);
      }
    });
  }

  test("an event beyond all bounds is refused", () => {
    const decoder = new SSEDecoder();
    const piece = utf8.encode("x".repeat(65_536));
    decoder.feed(utf8.encode("data: "));
    assert.throws(() => {
      for (let count = 0; count < 17; count += 1) decoder.feed(piece);
    }, RangeError);
  });

  test("events of any number do not add up to one that is too large", () => {
    const decoder = new SSEDecoder();
    const event = utf8.encode(`data: ${"x".repeat(65_536)}\n\n`);
    for (let count = 0; count < 40; count += 1) assert.equal(decoder.feed(event).length, 1);
  });
});

describe("events", () => {
  const { cases, accepted } = read("events.json");
  for (const { name, id, sse, ws_json: message, stream_id, data } of cases) {
    test(name, () => {
      const { frames } = decode([utf8.encode(sse)]);
      assert.deepEqual(frames.map((frame) => [frame.id, JSON.parse(frame.data)]), [[String(id), data]]);
      assert.deepEqual(JSON.parse(message), { type: "event", stream_id, id, data });
      assert.deepEqual(splitLines(sse), [data]);
      assert.equal(typeof data.token, "string");
      assert.equal(typeof data.done, "boolean");
      assert.match(sse, /^[\x20-\x7e\n]*$/, "ASCII only");
    });
  }

  test("accepted has no id", () => {
    const { frames } = decode([utf8.encode(accepted.sse)]);
    assert.deepEqual(frames.map((frame) => frame.id), [""]);
    assert.equal(JSON.parse(frames[0].data).status, "queued");
  });
});

describe("errors", () => {
  const { rows, refusals } = read("errors.json");
  for (const { name, code, body, sse, ws_json: message } of refusals) {
    test(name, () => {
      const [data] = splitLines(sse);
      const { token, done, retryable, ...rest } = data;
      assert.deepEqual(rest, JSON.parse(body));
      assert.deepEqual([token, done], ["", true]);
      assert.equal(retryable, rows.find((row) => row.code === code).retryable);
      assert.equal(JSON.parse(message).error_code, code);
    });
  }
});

describe("session", () => {
  const textOf = (log, first, last) => log.slice(first, last).filter((item) => !item.startsWith("*")).join("");
  for (const { name, log, after, exact, compact, text, closed } of read("session.json").cases) {
    test(name, () => {
      const last = exact.at(-1);
      assert.deepEqual(exact, Array.from({ length: last - after }, (_, index) => after + index + 1), "none lost or twice");
      assert.ok(compact.every((id) => exact.includes(id)), "compact ids are exact ids");
      assert.equal(compact.at(-1), last, "both stand at the same cursor");
      assert.equal(textOf(log, after, last), text);
      assert.equal(closed, last === log.length);
    });
  }
});

describe("cursors", () => {
  for (const { name, after, answer, error } of read("cursors.json").cases) {
    test(name, () => {
      assert.notEqual(answer === undefined, error === undefined, "an answer or an error");
      if (answer !== undefined) assert.ok(Number.isSafeInteger(after));
    });
  }
});
