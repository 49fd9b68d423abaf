// socket.io over Redis streams, to compare with. `node socketio.cjs edge PORT REDIS` serves clients, `… worker REDIS`
// plays the scripted model into rooms: one room a stream. As the adapter's manual has it, with connection state
// recovery; WebSocket only, so that no client polls first.
"use strict";

const { createServer } = require("node:http");
const { createRequire } = require("node:module");
const { randomUUID } = require("node:crypto");
const timers = require("node:timers/promises");

const fetched = createRequire(`${process.env.BENCH_MODULES}/`);
const { Server } = fetched("socket.io");
const { createAdapter } = fetched("@socket.io/redis-streams-adapter");
const { createClient } = fetched("redis");

const JOBS = "bench:jobs";
const WORKER = "bench:worker";
const [role, ...rest] = process.argv.slice(2);
const socketPath = rest.at(-1);

async function connected() {
  const client = createClient({ socket: { path: socketPath } });
  client.on("error", (error) => console.error(error));
  return client.connect();
}

async function options() {
  return {
    adapter: createAdapter(await connected(), { maxLen: 100_000 }),
    connectionStateRecovery: { maxDisconnectionDuration: 120_000, skipMiddlewares: true },
    transports: ["websocket"],
    serveClient: false,
  };
}

function body(request) {
  return new Promise((resolve, reject) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => resolve(Buffer.concat(parts).toString()));
    request.on("error", reject);
  });
}

async function edge(port) {
  const redis = await connected();
  const answers = new Map();
  const http = createServer(async (request, response) => {
    if (request.url === "/readyz") {
      response.end(JSON.stringify({ workers: await redis.exists(WORKER) }));
      return;
    }
    const { model } = JSON.parse(await body(request));
    const id = randomUUID().replaceAll("-", "");
    answers.set(id, response);
    response.writeHead(200, { "content-type": "text/event-stream", "x-stream-id": id });
    response.write(": begun\n\n");
    await redis.lPush(JOBS, JSON.stringify({ id, model }));
  });
  const io = new Server(http, await options());
  io.on("connection", (socket) => socket.on("join", (id) => socket.join(id)));
  io.on("ended", (id) => answers.get(id)?.end());
  http.listen({ port, host: "127.0.0.1", backlog: 2048 });
}

async function play(io, { id, model }) {
  const asked = new URLSearchParams(model.split("?")[1]);
  const number = (name, otherwise) => Number(asked.get(name) ?? otherwise);
  const tokens = number("tokens", 20);
  const pause = number("interval_ms", 20);
  await timers.setTimeout(number("first_ms", 0));
  for (let at = 0; at < tokens; at += 1) {
    io.to(id).emit("token", { token: `w${at} `, done: false, model, timestamp: new Date().toISOString() });
    await (pause ? timers.setTimeout(pause) : timers.setImmediate());
  }
  io.to(id).emit("token", { token: "", done: true, end: "[end]" });
  io.serverSideEmit("ended", id);
}

async function worker() {
  const redis = await connected();
  const io = new Server(await options());
  await redis.set(WORKER, "1");
  for (;;) {
    const job = await redis.brPop(JOBS, 0);
    play(io, JSON.parse(job.element)).catch((error) => console.error(error));
  }
}

(role === "edge" ? edge(Number(rest[0])) : worker()).catch((error) => {
  console.error(error);
  process.exit(1);
});
