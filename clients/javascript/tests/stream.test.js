// One answer over connections that break everywhere: what is kept is what was written, once and in order.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { Answer, cursorOf } from "../answer.js";
import { TokenrelayError, createClient } from "../client.js";
import { ERRORS } from "../errors.js";
import { FakeClock, FakeEdge, STREAM_ID, fakePage } from "./fakes.js";

const TOKENS = ["Hel", "lo é", "😀\u2028", "\r\n", "data: x", " end"];
const VECTORS = new URL("../../../protocol/vectors/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, VECTORS), "utf8"));

function set(transport, tokens, options = {}, given = {}) {
  const clock = new FakeClock();
  const page = fakePage();
  const edge = new FakeEdge(tokens, options);
  const { fetch, WebSocket } = edge;
  const client = createClient({ url: "http://edge.test", transport, fetch, WebSocket, clock, page, ...given });
  return { clock, page, edge, client };
}

/** All that a loop over the stream gives, in the clock's own time. */
async function whole(stream, clock) {
  const seen = [];
  const loop = (async () => {
    for await (const event of stream) seen.push(event);
  })();
  await clock.until(loop);
  return seen;
}

function assertWhole(stream, seen, edge, note) {
  assert.equal(stream.text, edge.text, note);
  assert.equal(seen.map(({ data }) => data.token).join(""), edge.text, note);
  const ids = seen.map(({ id }) => id).filter((id) => id !== null);
  assert.ok(ids.every((id, index) => index === 0 || id > ids[index - 1]), `${note}: ids rise: ${ids}`);
  assert.deepEqual([ids.at(-1), stream.lastEventId, stream.state], [edge.log.length, edge.log.length, "done"], note);
  assert.equal(edge.keys.size, 1, `${note}: one generation`);
}

const ask = async (transport, options, note) => {
  const { client, clock, edge } = set(transport, TOKENS, options);
  const stream = client.chat("hi");
  assertWhole(stream, await whole(stream, clock), edge, note);
  return { stream, edge, clock };
};

describe("over SSE", () => {
  test("an answer is whole", async () => {
    const { stream, edge } = await ask("sse", {}, "plain");
    assert.equal(stream.streamId, STREAM_ID);
    assert.equal((await stream.done).finish_reason, "stop");
    assert.equal(edge.calls.length, 1);
    assert.deepEqual(edge.calls[0].body, { message: "hi", stream: true });
  });

  for (const chunk of [1, 2, 3, 7, 64]) {
    test(`in reads of ${chunk} bytes`, () => ask("sse", { fates: [{ chunk }] }, `${chunk}`));
    test(`in reads of ${chunk} bytes, characters cut`, () => ask("sse", { fates: [{ chunk, raw: true }] }, `${chunk}`));
  }

  for (const how of ["end", "error"]) {
    for (const compact of [false, true]) {
      test(`cut after every byte (${how}${compact ? ", compact" : ""})`, async () => {
        for (let cut = 0; cut < 900; cut += 1) {
          await ask("sse", { fates: [{ cut, how }, { compact }] }, `cut after ${cut}`);
        }
      });
    }
  }

  test("cut again and again", async () => {
    const cutAt = (index) => ({ cut: 60 + ((index * 37) % 190), how: "error", chunk: 5 });
    const fates = Array.from({ length: 60 }, (_, index) => cutAt(index));
    await ask("sse", { fates: [...fates, {}] }, "often");
  });

  test("each event twice", () => ask("sse", { fates: [{ repeat: true }] }, "twice"));
  test("silence is noticed", async () => {
    const { clock } = await ask("sse", { fates: [{ cut: 300, how: "hang" }, {}] }, "silence");
    assert.ok(clock.now() >= 45_000 && clock.now() < 60_000, `${clock.now()} ms`);
  });

  test("a start whose answer is lost is sent again with the same key, and a known one is resumed", async () => {
    const { edge } = await ask("sse", { fates: [{ unreachable: true }, { cut: 0 }, {}] }, "start");
    assert.deepEqual(edge.calls.map(({ method, path }) => `${method} ${path}`),
      ["POST /api/chat", "POST /api/chat", `GET /api/streams/${STREAM_ID}`]);
    assert.equal(edge.calls[2].headers.get("last-event-id"), null);
  });

  test("an id hidden by CORS is learnt from the first event", async () => {
    const { stream, edge } = await ask("sse", { fates: [{ cut: 400, hideId: true }, {}] }, "hidden");
    assert.deepEqual([stream.streamId, edge.calls[1].method], [STREAM_ID, "GET"]);
  });

  test("the server's `retry:` is waited for, and longer after each failure", async () => {
    const down = { unreachable: true };
    const { clock } = await ask("sse", { retry: 700, fates: [{ cut: 150 }, down, down, down, {}] }, "retry");
    const waits = clock.waits.filter((ms) => ![15_000, 45_000].includes(ms));
    assert.deepEqual(waits, [700, 1050, 1750, 3150]); // halfway between 700 and 700 * 2^n
  });

  test("one that has all of it is told so with 204", async () => {
    const { client, clock, edge } = set("sse", TOKENS);
    const stream = client.resume(STREAM_ID, edge.log.length);
    assert.equal(await clock.until(stream.done), null);
    assert.equal(stream.state, "done");
  });
});

describe("over a WebSocket", () => {
  test("an answer is whole", async () => {
    const { edge } = await ask("websocket", {}, "plain");
    assert.deepEqual(edge.sockets[0].protocols, ["tokenrelay.v1.json"]);
    assert.equal(edge.sockets[0].url, "ws://edge.test/api/ws");
    assert.equal(edge.calls.length, 0);
  });

  for (const fate of [{}, { inArrays: true }, { repeat: true }, { compact: true }]) {
    test(`dropped after every message, ${JSON.stringify(fate)}`, async () => {
      for (let cut = 0; cut < 12; cut += 1) {
        await ask("websocket", { fates: [{ ...fate, cut }, fate] }, `cut after ${cut}`);
      }
    });
  }

  test("events of an earlier attachment, which come before `started`, are passed over", () =>
    ask("websocket", { fates: [{ cut: 5 }, { late: [2, 3, 4, 5, 6, 7], compact: true }] }, "late"));

  test("silence is noticed by unanswered pings", async () => {
    const { clock, edge } = await ask("websocket", { fates: [{ cut: 4, how: "hang" }, {}] }, "silence");
    assert.ok(clock.now() >= 45_000 && clock.now() < 70_000, `${clock.now()} ms`);
    assert.equal(edge.sockets[0].heard.filter(({ type }) => type === "ping").length, 2);
  });

  test("a handshake that hangs is given up", () =>
    ask("websocket", { fates: [{ neverOpens: true }, {}] }, "handshake"));

  test("`reconnect` is obeyed: not before after_ms", async () => {
    const { client, clock, edge } = set("websocket", TOKENS, { fates: [{ cut: 5, how: "hang" }, {}] });
    const stream = client.chat("hi");
    await clock.rest();
    const [socket] = edge.sockets;
    socket.onmessage({ data: '{"type":"reconnect","after_ms":1234}' });
    socket.drop(1012);
    assertWhole(stream, await whole(stream, clock), edge, "drain");
    assert.ok(clock.waits.includes(1234));
  });

  test("streams share one socket, and it closes when nobody needs it", async () => {
    const { client, clock, edge } = set("websocket", TOKENS);
    edge.idOf = ({ message }) => `${message}-0123456789`;
    const streams = ["a", "b", "c"].map((message) => client.chat(message));
    await clock.until(Promise.all(streams.map((stream) => stream.done)));
    assert.deepEqual(streams.map(({ text }) => text), [edge.text, edge.text, edge.text]);
    assert.equal(edge.sockets.length, 1);
    await clock.advance(3_000);
    assert.equal(edge.sockets[0].readyState, 3);
  });

  test("a socket that was left says nothing any more to the stream that has gone on elsewhere", async () => {
    const fates = [{ cut: 5, how: "hang" }, { cut: 300, how: "hang" }];
    const { client, clock, edge } = set("websocket", TOKENS, { fates });
    const stream = client.chat("hi");
    await clock.rest();
    const had = stream.lastEventId;
    stream.use("sse");
    await clock.rest();
    const late = { type: "event", stream_id: STREAM_ID, id: 7, data: { token: "late", done: false } };
    edge.sockets[0].onmessage({ data: JSON.stringify(late) });
    assert.ok(!stream.text.includes("late") && stream.lastEventId >= had);
    assert.deepEqual(edge.sockets[0].heard.at(-1), { type: "detach", stream_id: STREAM_ID });
    stream.detach();
  });

  test("one stream read twice takes two sockets: the server would take them for one", async () => {
    const { client, clock, edge } = set("websocket", TOKENS, { fates: [{ cut: 5, how: "hang" }, {}] });
    const one = client.chat("hi");
    await clock.rest();
    const other = client.resume(one.streamId);
    await clock.rest();
    assert.equal(edge.sockets.length, 2);
    assert.equal(other.text, edge.text);
    client.close();
    assert.deepEqual([one.state, other.state], ["detached", "done"]);
  });

  test("a key is changed for a ticket, a ticket is used as it is", async () => {
    const keyed = set("websocket", TOKENS, {}, { key: async () => "sesame" });
    await clock(keyed);
    assert.equal(keyed.edge.sockets[0].url, "ws://edge.test/api/ws?ticket=t1");
    assert.equal(keyed.edge.calls[0].headers.get("authorization"), "Bearer sesame");
    const given = set("auto", TOKENS, {}, { ticket: () => "t2" });
    await clock(given);
    assert.equal(given.edge.sockets[0].url, "ws://edge.test/api/ws?ticket=t2");
    function clock({ client, clock: time }) {
      return time.until(client.chat("hi").done);
    }
  });

  test("closes after which a client does not come back", async () => {
    for (const [code, name] of [[4401, "UNAUTHORIZED"], [4403, "FORBIDDEN"]]) {
      const { client, clock } = set("websocket", TOKENS, { fates: [{ cut: 3, how: code }] });
      await assert.rejects(clock.until(client.chat("hi").done), { code: name });
    }
  });

  test("a question too large ends the socket of all, and fails alone", async () => {
    const { client, clock, edge } = set("websocket", TOKENS, { fates: [{ cut: 3, how: "hang" }, {}] });
    edge.idOf = ({ message }) => `${message.slice(0, 1)}-0123456789`;
    const small = client.chat("small");
    await clock.rest();
    const large = client.chat("L".repeat(2_000));
    await clock.rest();
    edge.sockets[0].drop(1009);
    await assert.rejects(clock.until(large.done), { code: "PAYLOAD_TOO_LARGE", status: 413 });
    assert.equal((await clock.until(small.done)).done, true);
    assert.equal(small.text, edge.text);
  });
});

describe("either way", () => {
  test("a transport that breaks hands over to the other, with the same cursor", async () => {
    for (let cut = 0; cut < 10; cut += 1) {
      const fates = [{ cut }, { cut: 300 + cut * 17, how: "error" }, {}];
      const { stream, edge } = await ask("auto", { fates }, `${cut}`);
      assert.ok(edge.calls.length > 0 && edge.sockets.length > 0);
      assert.ok(["sse", "websocket"].includes(stream.transport));
    }
  });

  test("a forbidden WebSocket costs no wait, and is not tried by the next stream", async () => {
    const { client, clock, edge } = set("auto", TOKENS, { fates: [{ unreachable: true }, {}] });
    const stream = client.chat("hi");
    assertWhole(stream, await whole(stream, clock), edge, "proxy");
    assert.equal(client.chat("again").transport, "sse");
    await clock.rest();
    assert.deepEqual([clock.now(), edge.sockets.length], [0, 1]);
  });

  test("a fault of the surroundings ends the stream", async () => {
    const clock = Object.assign(new FakeClock(), { setTimeout: () => { throw new Error("no timers here"); } });
    const stream = createClient({ url: "http://edge.test", fetch: new FakeEdge([]).fetch, clock, page: {} }).chat("hi");
    await assert.rejects(stream.done, { message: "no timers here" });
    assert.equal(stream.state, "failed");
  });

  test("an address that is none is said at once", async () => {
    for (const transport of ["sse", "websocket", "auto"]) {
      const { client, clock } = set(transport, TOKENS, {}, { url: "" });
      await assert.rejects(clock.until(client.chat("hi").done), { code: "INVALID_REQUEST" });
      assert.equal(clock.now(), 0);
    }
  });

  for (const [from, to] of [["sse", "websocket"], ["websocket", "sse"]]) {
    test(`changed by hand from ${from} to ${to}, at once`, async () => {
      const fates = [{ cut: from === "sse" ? 500 : 5, how: "hang" }, {}];
      const { client, clock, edge } = set(from, TOKENS, { fates });
      const stream = client.chat("hi");
      await clock.rest();
      assert.equal(stream.state, "streaming");
      stream.use(to);
      assertWhole(stream, await whole(stream, clock), edge, to);
      assert.equal(clock.now(), 0);
    });
  }

  for (const transport of ["sse", "websocket"]) {
    test(`refusals over ${transport} have their type`, async () => {
      for (const [code, [status, retryable]] of Object.entries(ERRORS).filter(([, row]) => row[0] >= 400 && !row[1])) {
        const body = { error: "no", error_code: code, request_id: "r" };
        const { client, clock } = set(transport, TOKENS, { fates: [{ refuse: { status, body } }] });
        const stream = client.resume(STREAM_ID, 9_000);
        await assert.rejects(clock.until(stream.done), (error) => {
          assert.ok(error instanceof TokenrelayError);
          assert.deepEqual([error.code, error.status, error.retryable, error.message], [code, status, retryable, "no"]);
          return true;
        });
        assert.deepEqual([stream.state, stream.error.details.request_id], ["failed", "r"]);
        assert.equal(clock.now(), 0, "no second try");
      }
    });

    test(`a limit over ${transport} is waited for, as long as the server says, and not for ever`, async () => {
      const refuse = { status: 429, body: { error: "slow down", error_code: "RATE_LIMIT", retry_after: 7 } };
      const passes = set(transport, TOKENS, { fates: [{ refuse }, {}] });
      await passes.clock.until(passes.client.chat("hi").done).catch(() => {});
      assert.ok(passes.clock.waits.includes(7_000));
      const stays = set(transport, TOKENS, { fates: [{ refuse }] });
      const stream = stays.client.chat("hi");
      await assert.rejects(stays.clock.until(stream.done), { code: "RATE_LIMIT", retryable: true, retryAfter: 7 });
      const tries = stays.edge.sockets[0]?.heard.filter(({ type }) => type === "start") ?? stays.edge.calls;
      assert.ok(tries.length <= 6 && stays.clock.now() === 5 * 7_000, "five more tries");
    });

    test(`the failure of an answer over ${transport} keeps its text`, async () => {
      const end = { error: "the provider failed", error_code: "PROVIDER_ERROR", retryable: false };
      const { client, clock, edge } = set(transport, TOKENS, { end });
      const stream = client.chat("hi");
      await assert.rejects(whole(stream, clock), { code: "PROVIDER_ERROR", status: 502, retryable: false });
      assert.deepEqual([stream.text, stream.state, stream.events.at(-1).data.done], [edge.text, "failed", true]);
    });

    test(`cancel and detach over ${transport}`, async () => {
      const fates = [{ cut: transport === "sse" ? 500 : 5, how: "hang" }];
      const { client, clock, edge } = set(transport, TOKENS, { fates });
      const stream = client.chat("hi");
      await clock.rest();
      if (transport === "sse") await stream.cancel(); // the fake socket is deaf by now: its test is the real server
      else void stream.cancel().catch(() => {});
      await clock.rest();
      assert.equal(edge.cancels, 1);
      stream.detach();
      assert.deepEqual([await stream.done, stream.state], [null, "detached"]);
      const reads = () => edge.calls.filter(({ path }) => !path.endsWith("/cancel")).length;
      const before = reads();
      await clock.advance(100_000);
      assert.equal(reads(), before, "nothing is read any more");
      assert.ok(edge.cancels === 1 || transport === "websocket", "a deaf socket's stop goes another way");
    });
  }

  test("CURSOR_AHEAD with an id of the server's own is tried again: a failover's tail comes back", async () => {
    const refuse = { status: 409, body: { error: "ahead", error_code: "CURSOR_AHEAD" } };
    await ask("sse", { fates: [{ cut: 500 }, { refuse }, { refuse }, {}] }, "failover");
  });

  test("a stop before the id is known holds", async () => {
    const { client, clock, edge } = set("sse", TOKENS, { fates: [{ unreachable: true }, { cut: 150, how: "hang" }] });
    const stream = client.chat("hi");
    const stopped = stream.cancel();
    await clock.rest();
    await clock.until(stopped);
    assert.equal(edge.cancels, 1);
    stream.detach();
  });

  test("no server: it is said in the end", async () => {
    const { client, clock } = set("auto", TOKENS, { fates: [{ unreachable: true }] }, { patienceMs: 60_000 });
    await assert.rejects(clock.until(client.chat("hi").done), { code: "UNREACHABLE", status: 0 });
    assert.ok(clock.now() > 45_000);
  });

  test("two loops see the same", async () => {
    const { client, clock } = set("sse", TOKENS);
    const stream = client.chat("hi");
    const [one, other] = await Promise.all([whole(stream, clock), whole(stream, clock)]);
    assert.deepEqual(one, other);
  });

  test("a fault in a listener is not taken for a broken connection", async () => {
    const { client, clock, edge } = set("sse", TOKENS);
    const faults = [];
    const { queueMicrotask } = globalThis;
    globalThis.queueMicrotask = (task) => {
      try { task(); } catch (error) { faults.push(error.message); }
    };
    const stream = client.chat("hi");
    let isFirst = true;
    stream.subscribe(() => {
      if (!isFirst) return;
      isFirst = false;
      throw new Error("mine");
    });
    await clock.until(stream.done);
    globalThis.queueMicrotask = queueMicrotask;
    assert.deepEqual([faults, edge.calls.length], [["mine"], 1]);
  });
});

describe("waking up", () => {
  const cut = { cut: 120, how: "hang" };

  test("`online` reconnects at once, from a pause and from a dead connection", async () => {
    const { client, clock, page, edge } = set("sse", TOKENS, { fates: [{ cut: 400 }, cut, {}] });
    const stream = client.chat("hi");
    await clock.rest();
    assert.equal(stream.state, "reconnecting");
    page.window.dispatchEvent(new Event("online"));
    await clock.rest();
    assert.equal(stream.state, "streaming");
    page.window.dispatchEvent(new Event("online"));
    await clock.rest();
    assert.deepEqual([stream.state, stream.text, clock.now()], ["done", edge.text, 0]);
  });

  for (const [target, name] of [["document", "visibilitychange"], ["window", "pageshow"]]) {
    test(`\`${name}\` ends a pause, and a connection that is silent for too long`, async () => {
      const { client, clock, page, edge } = set("sse", TOKENS, { fates: [{ cut: 400 }, cut, {}] });
      const stream = client.chat("hi");
      await clock.rest();
      page[target].dispatchEvent(new Event(name));
      await clock.rest();
      assert.equal(stream.state, "streaming");
      page[target].dispatchEvent(new Event(name));
      await clock.rest();
      assert.equal(stream.state, "streaming", "a connection that was heard of is left alone");
      await clock.advance(21_000);
      page[target].dispatchEvent(new Event(name));
      await clock.rest();
      assert.deepEqual([stream.state, stream.text], ["done", edge.text]);
    });
  }

  test("a socket is asked whether it lives", async () => {
    const { client, clock, page, edge } = set("websocket", TOKENS, { fates: [{ cut: 5, how: "hang" }, {}] });
    const stream = client.chat("hi");
    await clock.rest();
    page.window.dispatchEvent(new Event("online"));
    await clock.until(stream.done);
    assert.ok(clock.now() < 8_000, `${clock.now()} ms`);
    assert.equal(stream.text, edge.text);
  });

  test("a stream that is over listens to nothing", async () => {
    const { client, clock, page } = set("sse", TOKENS);
    const known = new Set();
    for (const target of [page.window, page.document]) {
      target.addEventListener = (name, listener) => known.add(listener);
      target.removeEventListener = (name, listener) => known.delete(listener);
    }
    const stream = client.chat("hi");
    assert.ok(known.size > 0);
    await clock.until(stream.done);
    assert.equal(known.size, 0);
  });

  test("a machine that knows it has no network uses up no time", async () => {
    const fates = [...Array.from({ length: 40 }, () => ({ unreachable: true })), {}];
    const { client, clock, page } = set("sse", TOKENS, { fates }, { patienceMs: 10_000 });
    page.navigator.onLine = false;
    const stream = client.chat("hi");
    await clock.until(stream.done);
    assert.equal(stream.state, "done");
  });

  test("what the server asked for is not cut short", async () => {
    const refuse = { status: 503, body: { error: "full", error_code: "OVERLOADED", retry_after: 20 } };
    const { client, clock, page, edge } = set("sse", TOKENS, { fates: [{ refuse }, {}] });
    const stream = client.chat("hi");
    await clock.rest();
    page.window.dispatchEvent(new Event("online"));
    await clock.rest();
    assert.equal(edge.calls.length, 1);
    await clock.until(stream.done);
    assert.equal(clock.now(), 20_000);
  });
});

describe("vectors", () => {
  for (const { name, text, after, error } of read("cursors.json").cases) {
    test(`cursor: ${name}`, () => {
      if (error === "INVALID_CURSOR") assert.throws(() => cursorOf(text), { code: "INVALID_CURSOR" });
      else if (after !== undefined) assert.equal(cursorOf(text), after);
    });
  }

  test("the table of errors is the server's", () => {
    const rows = read("errors.json").rows.map(({ code, status, retryable }) => [code, [status, retryable]]);
    const { UNREACHABLE, ...ours } = ERRORS;
    assert.deepEqual(Object.fromEntries(rows), ours);
  });

  const sessions = read("session.json").cases.filter((row) => row.closed);
  for (const { name, log, after, exact, compact, text, closed } of sessions) {
    test(`session: ${name}`, async () => {
      const events = log.map((item, index) => {
        const data = item.startsWith("*") ? { token: "", done: item === "*end" } : { token: item, done: false };
        return { id: index + 1, data };
      });
      for (const isCompact of [false, true]) {
        const { client, clock } = set("sse", [], { log: events, fates: [{ compact: isCompact }] });
        const stream = client.resume(STREAM_ID, after);
        const seen = await whole(stream, clock);
        assert.equal(stream.text, text);
        assert.equal(stream.lastEventId, exact.at(-1));
        assert.equal(stream.state === "done", closed);
        if (!isCompact) assert.deepEqual(seen.map(({ id }) => id), exact);
        assert.ok(compact.every((id) => exact.includes(id)));
      }
    });
  }
});

describe("an answer", () => {
  const token = (text) => ({ token: text, done: false });
  const accepted = { token: "", done: false, status: "queued" };

  test("takes each event once, and nothing after its end", () => {
    const answer = new Answer(0);
    const news = [
      answer.take(null, accepted), answer.take(null, accepted), answer.take(1, token("a")), answer.take(1, token("a")),
      answer.take(null, token("no id, no text")), answer.take(4, token("bcd")), answer.take(3, token("d")),
      answer.take(null, accepted), answer.take(5, { token: "", done: true }), answer.take(6, token("e")),
      answer.take(null, { token: "", done: true }),
    ];
    assert.deepEqual(news, [true, false, true, false, false, true, false, false, true, false, false]);
    assert.deepEqual([answer.text, answer.lastEventId, answer.events.length], ["abcd", 5, 4]);
  });

  test("passes over what it does not know, but counts it", () => {
    const answer = new Answer(3);
    assert.ok(answer.take(4, { weather: "fine", done: false }));
    assert.deepEqual([answer.text, answer.lastEventId], ["", 4]);
  });
});

test("what cannot be is said at once", () => {
  assert.throws(() => createClient({ transport: "pigeon" }), { code: "INVALID_REQUEST" });
  assert.throws(() => createClient({ transport: "websocket", WebSocket: null }), { code: "INVALID_REQUEST" });
  const { client } = set("sse", TOKENS);
  assert.throws(() => client.resume(STREAM_ID, "soon"), { code: "INVALID_CURSOR" });
  assert.throws(() => client.chat({ message: "hi", seed: 1n }), TypeError);
});
