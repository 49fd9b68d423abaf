// What the hook shows: reset on send, one drawing a frame, never stuck, back after a reload. Without React.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import { createClient } from "../client.js";
import { ChatView } from "../view.js";
import { FakeClock, FakeEdge, STREAM_ID, answer, fakePage, logOf } from "./fakes.js";

let frames = [];
const drawFrame = () => frames.splice(0).forEach((draw) => draw());

beforeEach(() => {
  frames = [];
  globalThis.requestAnimationFrame = (draw) => frames.push(draw);
  globalThis.cancelAnimationFrame = (number) => { frames[number - 1] = () => {}; };
});

class Storage {
  values = new Map();
  getItem = (key) => this.values.get(key) ?? null;
  setItem = (key, value) => this.values.set(key, value);
  removeItem = (key) => this.values.delete(key);
}

function set(options = {}, tokens = ["one ", "two ", "three"]) {
  const clock = new FakeClock();
  const edge = new FakeEdge(tokens, options);
  const given = { url: "http://edge.test", transport: "sse", fetch: edge.fetch, clock, page: fakePage() };
  const storage = new Storage();
  const view = () => new ChatView(createClient(given), { storageKey: "chat", storage, body: { model: "m" } });
  return { clock, edge, storage, view, clients: () => createClient(given) };
}

const CUT = { cut: 450, how: "hang" };

describe("a view", () => {
  test("is idle, streams, and is done", async () => {
    const { clock, edge, view } = set();
    const shown = view();
    assert.deepEqual([shown.getSnapshot().status, shown.getSnapshot().isStreaming], ["idle", false]);
    const text = shown.send("hi", { seed: 1 });
    assert.deepEqual([shown.getSnapshot().status, shown.getSnapshot().isStreaming], ["connecting", true]);
    assert.equal(await clock.until(text), edge.text);
    const { response, status, isStreaming, streamId, error } = shown.getSnapshot();
    assert.deepEqual([response, status, isStreaming, streamId, error], [edge.text, "done", false, STREAM_ID, null]);
    assert.deepEqual(edge.calls[0].body, { model: "m", message: "hi", seed: 1, stream: true });
  });

  test("draws once a frame however many tokens come", async (context) => {
    context.mock.timers.enable({ apis: ["setTimeout"] }); // a slow machine would draw without a frame
    const { clock, edge, view } = set({ fates: [{ cut: 40_000, how: "hang", chunk: 100 }] }, Array(1_000).fill("x"));
    const shown = view();
    void shown.send("hi");
    let drawn = 0;
    shown.subscribe(() => { drawn += 1; });
    for (let count = 0; count < 200; count += 1) await clock.rest();
    assert.ok(edge.calls.length === 1 && shown.text.length > 300, `${shown.text.length}`);
    assert.equal(drawn, 0);
    drawFrame();
    assert.deepEqual([drawn, shown.getSnapshot().response], [1, shown.text]);
    shown.unmount();
  });

  test("is reset by the next question", async () => {
    const { clock, edge, view } = set({ fates: [CUT, {}] });
    const shown = view();
    void shown.send("one");
    await clock.rest();
    drawFrame();
    assert.notEqual(shown.getSnapshot().response, "");
    const text = shown.send("two");
    assert.deepEqual([shown.getSnapshot().response, shown.getSnapshot().events], ["", []]);
    assert.equal(await clock.until(text), edge.text);
    assert.equal(edge.cancels, 0);
  });

  for (const [name, options] of Object.entries({
    "a refusal": { fates: [{ refuse: { status: 401, body: { error: "no", error_code: "UNAUTHORIZED" } } }] },
    "a failure": { end: { error: "no", error_code: "WORKER_LOST", retryable: true } },
    "no server": { fates: [{ unreachable: true }] },
    "a page that is not ours": { fates: [{ refuse: { status: 418, body: "<html>" } }] },
  })) {
    test(`does not stream any more after ${name}`, async () => {
      const { clock, view } = set(options);
      const shown = view();
      await clock.until(shown.send("hi"));
      const { isStreaming, status, error } = shown.getSnapshot();
      assert.deepEqual([isStreaming, status, error.name], [false, "failed", "TokenrelayError"]);
    });
  }

  test("does not stream any more after what cannot be sent", async () => {
    const shown = set().view();
    assert.equal(await shown.send({ message: "hi", seed: 1n }), "");
    assert.deepEqual([shown.getSnapshot().isStreaming, shown.getSnapshot().status], [false, "failed"]);
    assert.equal(await shown.resume("id", "soon"), "");
    assert.equal(shown.getSnapshot().error.code, "INVALID_CURSOR");
  });

  test("shows tools with their results", async () => {
    const asked = { tool_name: "calculator", tool_input: { expression: "6*7" }, tool_call_id: "c1" };
    const call = { ...asked, token: "", done: false };
    const { clock, view } = set({}, ["a", call, { ...call, tool_result: "42" }, "b"]);
    const shown = view();
    assert.equal(await clock.until(shown.send("hi")), "ab");
    const tool = { id: "c1", name: "calculator", input: { expression: "6*7" }, failed: false, result: "42" };
    assert.deepEqual(shown.getSnapshot().tools, [tool]);
  });

  test("shows thinking, arguments as they are written, and data", async () => {
    const thoughts = [{ token: "", done: false, status: "thinking" }, { thinking: "Let me ", token: "", done: false },
      { thinking: "see.", token: "", done: false }];
    const piece = { tool_call_id: "c1", token: "", done: false };
    const pieces = [{ ...piece, tool_input_delta: '{"a', tool_input_name: "sum" }, { ...piece, tool_input_delta: '": 1' }];
    const note = { data_name: "note", data: { page: 7 }, token: "", done: false };
    const cut = { fates: [{ how: "hang" }] };
    const open = set({ ...cut, log: logOf(["a", ...thoughts, note]).slice(0, -1) });
    const shown = open.view();
    void shown.send({ message: "hi", show: ["thinking", "tool_input"] });
    await open.clock.rest();
    drawFrame();
    const { thinking, isThinking, data, response } = shown.getSnapshot();
    assert.deepEqual([thinking, isThinking, data, response], ["Let me see.", true, [{ name: "note", value: { page: 7 } }], "a"]);
    assert.deepEqual(open.edge.calls[0].body.show, ["thinking", "tool_input"]);
    shown.unmount();

    const stream = open.clients().resume(STREAM_ID);
    await open.clock.rest();
    const heard = [];
    stream.on("data", (value, name) => heard.push([name, value]));
    assert.deepEqual(heard, [["note", { page: 7 }]]);
    assert.throws(() => stream.on("tokens", () => {}), TypeError);
    stream.detach();

    const half = set({ ...cut, log: logOf([...thoughts, ...pieces]).slice(0, -1) });
    const writing = half.view();
    void writing.send("hi");
    await half.clock.rest();
    drawFrame();
    assert.equal(writing.getSnapshot().isThinking, false);
    const { tools } = writing.getSnapshot();
    assert.deepEqual(tools, [{ id: "c1", name: "sum", input: {}, inputText: '{"a": 1', failed: false }]);
    writing.unmount();

    const lost = pieces.map((event) => ({ ...event, tool_call_id: "lost" })); // of an attempt that failed
    const call = { ...piece, tool_name: "sum", tool_input: { a: 1 } };
    const whole = set({}, [...thoughts, ...lost, ...pieces, call, thoughts[0], thoughts[2], "b"]);
    const last = whole.view();
    assert.equal(await whole.clock.until(last.send("hi")), "b");
    assert.deepEqual(last.getSnapshot().tools, [{ id: "c1", name: "sum", input: { a: 1 }, failed: false }]);
    assert.deepEqual([last.getSnapshot().thinking, last.getSnapshot().isThinking], ["Let me see.\n\nsee.", false]);
  });

  test("lets go when its component goes, goes on when it is back, and cancels nothing", async () => {
    const { clock, edge, view } = set({ fates: [CUT, {}] });
    const shown = view();
    shown.mount();
    void shown.send("hi");
    await clock.rest();
    const part = shown.text;
    assert.ok(part.length > 0);
    shown.unmount();
    shown.mount();
    assert.equal(shown.getSnapshot().response, part, "no flicker");
    await clock.rest();
    assert.deepEqual([shown.getSnapshot().response, shown.getSnapshot().isStreaming], [edge.text, false]);
    assert.deepEqual([edge.cancels, edge.keys.size], [0, 1]);
    assert.equal(edge.calls[1].method, "GET");
    const next = shown.send("again");
    assert.equal(shown.getSnapshot().response, "", "nothing of before is left");
    assert.equal(await clock.until(next), edge.text);
  });

  test("is mounted twice by strict mode before it knows an id, and starts one generation", async () => {
    const { clock, edge, view } = set();
    const shown = view();
    shown.mount();
    void shown.send("hi");
    shown.unmount();
    shown.mount();
    await clock.rest();
    assert.deepEqual([shown.getSnapshot().response, edge.keys.size], [edge.text, 1]);
  });

  for (const [when, rests] of [["in mid-answer", true], ["before its id is known", false]]) {
    test(`is picked up again after a reload ${when}`, async () => {
      const { clock, edge, storage, view } = set({ fates: [CUT, {}] });
      const before = view();
      before.mount();
      void before.send("hi");
      if (rests) await clock.rest();
      before.unmount();
      const after = view();
      after.mount();
      await clock.rest();
      if (after.getSnapshot().isStreaming) await clock.advance(60_000);
      assert.deepEqual([after.getSnapshot().response, after.getSnapshot().status], [edge.text, "done"]);
      assert.equal(edge.keys.size, 1);
      assert.equal(storage.values.size, 0, "what is over is not picked up");
    });
  }

  test("survives whatever its storage holds", () => {
    for (const value of ["{", "null", "7", '"x"', "{}", "[]"]) {
      const { storage, view } = set();
      storage.setItem("chat", value);
      const shown = view();
      shown.mount();
      assert.equal(shown.getSnapshot().status, "idle", value);
    }
  });

  test("two views watch one stream, each for itself", async () => {
    const { clock, edge, view } = set();
    const [one, other] = [view(), view()];
    void one.resume(STREAM_ID);
    void other.resume(STREAM_ID);
    await clock.rest();
    assert.deepEqual([one.getSnapshot().response, other.getSnapshot().response], [edge.text, edge.text]);
  });

  test("a stop that the server refuses is an error, not a wait", async () => {
    const { clock, edge, view } = set({ fates: [CUT] });
    const shown = view();
    void shown.send("hi");
    await clock.rest();
    edge.cancelRefusal = answer(404, { error: "no", error_code: "NOT_FOUND" });
    shown.stop();
    await clock.rest();
    const { isStreaming, status, error, response } = shown.getSnapshot();
    assert.deepEqual([isStreaming, status, error.code], [false, "failed", "NOT_FOUND"]);
    assert.notEqual(response, "", "the text stays");
  });
});
