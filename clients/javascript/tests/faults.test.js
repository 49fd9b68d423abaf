// Where servers, networks and callers misbehave: stops that outlive their reader, sockets that open and say nothing,
// answers of strangers, mistakes that no second try can mend.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { createClient } from "../client.js";
import { FakeClock, FakeEdge, STREAM_ID, answer, fakePage } from "./fakes.js";

const TOKENS = ["a", "b", "c"];

function set(transport, options = {}, given = {}) {
  const clock = new FakeClock();
  const page = fakePage();
  const edge = new FakeEdge(TOKENS, options);
  const { fetch, WebSocket } = edge;
  const client = createClient({ url: "http://edge.test", transport, fetch, WebSocket, clock, page, ...given });
  return { clock, page, edge, client };
}

const html = (status, headers) => ({ ...answer(status, {}, headers), json: async () => JSON.parse("<html>") });

describe("a stop", () => {
  for (const order of ["then left", "after it was left"]) {
    for (const transport of ["sse", "websocket"]) {
      test(`before the start is answered, ${order}, over ${transport}`, async () => {
        const { client, clock, edge } = set(transport, { fates: [{ unreachable: true }, {}] });
        const stream = client.chat("hi");
        await clock.rest();
        if (order === "after it was left") stream.detach();
        const stopped = stream.cancel();
        if (order === "then left") stream.detach();
        await clock.until(stopped);
        assert.deepEqual([stream.state, edge.cancels, edge.keys.size], ["detached", 1, 1]);
        const { length } = stream.events;
        await clock.advance(60_000);
        assert.equal(stream.events.length, length, "it is not read any more");
      });
    }
  }

  test("goes on when its client is closed", async () => {
    const { client, clock, edge } = set("websocket", { fates: [{ unreachable: true }, {}] });
    const stream = client.chat("hi");
    const stopped = stream.cancel();
    client.close();
    await clock.until(stopped);
    assert.equal(edge.cancels, 1);
    await clock.rest();
    assert.ok(edge.sockets.every(({ readyState }) => readyState === 3), "and nothing is left open");
  });

  test("takes any way there is: a page that has a ticket only, its socket broken", async () => {
    const { client, clock, edge } = set("auto", { fates: [{ cut: 5, how: "hang" }, { cut: 0, how: "hang" }, {}] }, { ticket: "t" });
    edge.cancelRefusal = answer(401, { error: "no key", error_code: "UNAUTHORIZED" });
    const stream = client.chat("hi");
    await clock.rest();
    edge.sockets[0].drop(1006);
    await clock.rest();
    assert.equal(stream.state, "reconnecting");
    const before = edge.cancels;
    await clock.until(stream.cancel());
    assert.ok(edge.cancels > before && edge.sockets.length > 1);
    stream.detach();
  });

  test("that a proxy forbids over HTTP goes over a socket, though the stream was not to use one", async () => {
    const { client, clock, edge } = set("sse", { fates: [{ cut: 400, how: "hang" }, {}] });
    edge.cancelRefusal = html(405);
    const stream = client.chat("hi");
    await clock.rest();
    await clock.until(stream.cancel());
    assert.deepEqual(edge.sockets[0].heard.map(({ type }) => type), ["cancel", "ping"]);
    stream.detach();
  });

  test("needs no seventh connection: after a second it lets go of the stream's own", async () => {
    const { client, clock, edge } = set("sse", { fates: [{ cut: 400, how: "hang" }, {}] });
    const { fetch } = edge;
    let isFree = false;
    const slow = async (url, options) => {
      if (!url.endsWith("/cancel")) {
        options.signal.addEventListener("abort", () => (isFree = true));
        return fetch(url, options);
      }
      while (!isFree) {
        if (options.signal.aborted) throw new DOMException("aborted", "AbortError");
        await new Promise((resolve) => setImmediate(resolve));
      }
      return fetch(url, options);
    };
    const limited = createClient({ url: "http://edge.test", transport: "sse", fetch: slow, WebSocket: null, clock, page: {} });
    const stream = limited.chat("hi");
    await clock.rest();
    await clock.until(stream.cancel());
    assert.ok(clock.now() <= 1_500, `${clock.now()} ms`);
    await clock.until(stream.done);
    assert.equal(stream.text, edge.text, "and the stream is read on");
    client.close();
  });

  test("that the server refuses whichever way is an error", async () => {
    const refuse = { body: { error: "none", error_code: "NOT_FOUND" } };
    const { client, clock, edge } = set("sse", { fates: [{ cut: 400, how: "hang" }] }, { WebSocket: null });
    edge.cancelRefusal = answer(404, refuse.body);
    const stream = client.chat("hi");
    await clock.rest();
    await assert.rejects(clock.until(stream.cancel()), { code: "NOT_FOUND" });
    stream.detach();
  });
});

describe("open is not usable", () => {
  test("a socket that opens and says nothing costs one question five seconds", async () => {
    const { client, clock, edge } = set("auto", { fates: [{ cut: 0, how: "hang" }, {}] });
    const first = client.chat("hi");
    await clock.until(first.done);
    assert.deepEqual([first.text, first.transport, clock.now()], [edge.text, "sse", 5_000]);
    assert.equal(edge.keys.size, 1, "one generation");
    const next = client.chat("again");
    await clock.until(next.done);
    assert.deepEqual([next.transport, clock.now(), edge.sockets.length], ["sse", 5_000, 1]);
    await clock.advance(6 * 60_000);
    assert.equal(client.chat("later").transport, "websocket", "networks change");
    client.close();
  });

  test("a question that a known socket does not answer is asked elsewhere", async () => {
    const { client, clock, edge } = set("auto", { fates: [{ cut: 7, how: "hang" }, {}] });
    await clock.until(client.chat("hi").done);
    const stream = client.chat("again");
    await clock.until(stream.done);
    assert.deepEqual([stream.text, edge.sockets.length], [edge.text, 1]);
    assert.ok(clock.now() <= 16_000);
  });
});

describe("whose word it is", () => {
  for (const status of [400, 401, 403, 404, 405, 409, 410, 413, 429, 502, 503]) {
    test(`a stranger's ${status} in mid-answer is a drop`, async () => {
      const { client, clock, edge } = set("sse", { fates: [{ cut: 400 }, {}] });
      const { fetch } = edge;
      let strangers = 3;
      const through = async (url, options) => {
        if (options.method === "GET" && strangers > 0) {
          strangers -= 1;
          return html(status, status === 503 ? { "retry-after": "2" } : {});
        }
        return fetch(url, options);
      };
      const proxied = createClient({ url: "http://edge.test", transport: "sse", fetch: through, clock, page: {} });
      const stream = proxied.chat("hi");
      await clock.until(stream.done);
      assert.deepEqual([stream.text, stream.state, strangers], [edge.text, "done", 0]);
      client.close();
    });
  }

  for (const code of [1000, 1003, 1007, 1011, 4000]) {
    test(`a stranger's close ${code} is a drop`, async () => {
      const { client, clock, edge } = set("websocket", { fates: [{ cut: 3, how: code }, {}] });
      const stream = client.chat("hi");
      await clock.until(stream.done);
      assert.equal(stream.text, edge.text);
    });
  }
});

describe("what can never succeed is said at once, with its cause", () => {
  const failing = () => { throw new TypeError("the vault is shut"); };
  const rows = [
    ["a key with a dash that is no ASCII", { key: "sk–1" }, /option `key` cannot be sent: character 3 is U\+2013/],
    ["a key with a line end", { key: "sk\n1" }, /U\+000A/],
    ["a key function that gives such a one", { key: () => "sk–1" }, /U\+2013/],
    ["a key function that throws", { key: failing }, /the vault is shut/],
    ["a key function that rejects", { key: async () => failing() }, /the vault is shut/],
    ["a ticket function that throws", { ticket: failing }, /option `ticket` is a function, and it failed/],
    ["an address without a scheme", { url: "localhost:8000" }, /no address of HTTP: localhost:8000/],
    ["an address of another scheme", { url: "ws://edge.test" }, /no address of HTTP/],
    ["an address without a host", { url: "http://" }, /no address of HTTP/],
    ["an address with a password", { url: "http://me:secret@edge.test" }, /must not hold a user or a password/],
  ];
  for (const [name, given, words] of rows) {
    for (const transport of ["auto", "sse", "websocket"]) {
      test(`${name}, over ${transport}`, async () => {
        const { client, clock } = set(transport, {}, given);
        const stream = client.chat("hi");
        if (transport === "sse" && "ticket" in given) return client.close(); // a start over HTTP takes no ticket
        await assert.rejects(clock.until(stream.done), (error) => {
          assert.match(error.message, words);
          assert.equal(error.code, "INVALID_REQUEST");
          assert.doesNotMatch(error.message, /secret|sk–1/);
          return true;
        });
        assert.equal(clock.now(), 0);
      });
    }
  }

  test("a certificate that is not trusted", async () => {
    const cause = Object.assign(new Error("self-signed certificate"), { code: "DEPTH_ZERO_SELF_SIGNED_CERT" });
    const fetch = async () => { throw new TypeError("fetch failed", { cause }); };
    for (const transport of ["sse", "auto"]) {
      const { client, clock } = set(transport, { fates: [{ unreachable: true }] }, { fetch });
      await assert.rejects(clock.until(client.chat("hi").done), { code: "UNREACHABLE", retryable: false, message: /self-signed/ });
      assert.equal(clock.now(), 0);
    }
  });

  test("the last cause stands in the error, and what to look at", async () => {
    const cause = Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:9"), { code: "ECONNREFUSED" });
    const fetch = async () => { throw new TypeError("fetch failed", { cause }); };
    for (const transport of ["sse", "auto"]) {
      const { client, clock } = set(transport, { fates: [{ unreachable: true }] }, { fetch });
      await assert.rejects(clock.until(client.chat("hi").done), (error) => {
        assert.match(error.message, /fetch failed: connect ECONNREFUSED 127.0.0.1:9\. Is http:\/\/edge.test the server's address/);
        assert.equal(error.cause.cause, cause);
        return true;
      });
      assert.ok(clock.now() <= 15_000, `within seconds: ${clock.now()} ms`);
    }
  });

  test("a page of another origin is told which setting may be missing", async () => {
    globalThis.location = new URL("https://app.test/page");
    try {
      const fetch = async () => { throw new TypeError("Failed to fetch"); };
      const { client, clock } = set("auto", { fates: [{ unreachable: true }] }, { fetch });
      await assert.rejects(clock.until(client.chat("hi").done),
        { message: /Failed to fetch.* a page of https:\/\/app\.test in its TOKENRELAY_ALLOWED_ORIGINS/ });
      assert.ok(clock.now() <= 15_000);
    } finally {
      delete globalThis.location;
    }
  });

  test("a stranger at the address is named", async () => {
    const { client, clock } = set("sse", {}, { fetch: async () => html(404) });
    await assert.rejects(clock.until(client.chat("hi").done), { message: /answered 404, and not as Tokenrelay does/ });
  });

  test("a fetch without a streaming body", async () => {
    const bodiless = (edge) => async (url, options) => {
      const { body, ...response } = await edge.fetch(url, options);
      return response;
    };
    const alone = set("sse");
    const only = createClient({ url: "http://edge.test", transport: "sse", fetch: bodiless(alone.edge), clock: alone.clock });
    await assert.rejects(alone.clock.until(only.chat("hi").done), { message: /no streaming body.*transport `websocket`/ });
    assert.equal(alone.clock.now(), 0);

    const { clock, edge } = set("auto", { fates: [{ cut: 3 }, {}] });
    const { WebSocket } = edge;
    const client = createClient({ url: "http://edge.test", fetch: bodiless(edge), WebSocket, clock, page: {} });
    const stream = client.chat("hi");
    await clock.until(stream.done);
    assert.deepEqual([stream.text, stream.transport], [edge.text, "websocket"]);
    assert.equal(client.chat("again").transport, "websocket");
    client.close();
  });
});

describe("someone who waits", () => {
  test("sees attempts and when the next is, and need not wait for it", async () => {
    const { client, clock, edge } = set("sse", { fates: [{ cut: 400 }, { unreachable: true }, {}], retry: 9_000 });
    const stream = client.chat("hi");
    await clock.rest();
    assert.deepEqual([stream.state, stream.attempts, stream.retryAt], ["reconnecting", 1, 9_000]);
    stream.retryNow();
    await clock.rest();
    assert.deepEqual([stream.attempts, stream.state], [2, "reconnecting"]);
    stream.retryNow();
    await clock.until(stream.done);
    assert.deepEqual([stream.text, stream.attempts, stream.retryAt, clock.now()], [edge.text, 0, null, 0]);
  });
});

describe("a page that the browser puts away and shows again", () => {
  for (const transport of ["sse", "websocket"]) {
    test(`goes on at once, without a word, over ${transport}`, async () => {
      const cut = transport === "sse" ? 400 : 3;
      const { client, clock, page, edge } = set(transport, { fates: [{ cut, how: "hang" }, {}] });
      const stream = client.chat("hi");
      await clock.rest();
      const states = [];
      stream.subscribe(() => states.push(stream.state));
      page.window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
      await clock.rest();
      const { length } = edge.calls;
      await clock.advance(20_000);
      assert.equal(edge.calls.length, length, "nothing is tried meanwhile");
      page.window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
      await clock.rest();
      assert.deepEqual([stream.state, stream.text], ["done", edge.text]);
      assert.ok(!states.includes("reconnecting"), states.join());
    });
  }

  test("a page that is left for good changes nothing", async () => {
    const { client, clock, page, edge } = set("sse", { fates: [{ cut: 400, how: "hang" }] });
    client.chat("hi");
    await clock.rest();
    page.window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: false }));
    await clock.rest();
    assert.equal(edge.calls.length, 1);
    client.close();
  });
});

test("address and key come from the environment, in Node.js", async () => {
  Object.assign(process.env, { TOKENRELAY_URL: "http://relay.test/", TOKENRELAY_KEY: "old" });
  try {
    const edge = new FakeEdge(TOKENS);
    const ask = (given) => createClient({ transport: "sse", fetch: (url, options) => {
      assert.ok(url.startsWith("http://relay.test/api/"));
      return edge.fetch(url, options);
    }, ...given }).chat("hi").done;
    await ask({});
    process.env.TOKENRELAY_API_KEY = "new";
    await ask({});
    await ask({ key: "given" });
    await ask({ key: "" });
    const keys = edge.calls.map(({ headers }) => headers.get("authorization"));
    assert.deepEqual(keys, ["Bearer old", "Bearer new", "Bearer given", null]);
    assert.equal(edge.calls[0].path, "/api/chat");
  } finally {
    for (const name of ["TOKENRELAY_URL", "TOKENRELAY_KEY", "TOKENRELAY_API_KEY"]) delete process.env[name];
  }
});
