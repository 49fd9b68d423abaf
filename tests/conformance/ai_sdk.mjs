// The AI SDK's `generateText` and `streamText` over `@ai-sdk/openai-compatible` (Chat Completions) and `@ai-sdk/openai`
// (Responses), in the major that fits the `ai` beside them.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import {
  BROKEN, CALLED, CALLING, LONG, PARAMETERS, PICTURE, TEXT, SILENT, THOUGHT, WORDS, ask, given, program, rejects, runAll, same, say, test,
  untilState, words,
} from "./telling.mjs";

const { generateText, jsonSchema, streamText, tool } = ai;
const upTo = ai.stepCountIs ?? ai.isStepCount;

function dialects(edge = "first", options = {}) {
  const common = { baseURL: `${given[edge]}/v1`, apiKey: given.key, ...options };
  const compatible = createOpenAICompatible({ name: "relay", includeUsage: true, ...common });
  const openai = createOpenAI(common);
  return { chat: (id) => compatible(id), responses: (id) => openai.responses(id) };
}

/** Both dialects, one after the other. */
async function each(run, ...options) {
  for (const [name, model] of Object.entries(dialects(...options))) await run(model, name);
}

const asked = (model, more = {}) => ({ model, prompt: "hi", maxRetries: 0, onError: () => {}, ...more });

async function partsOf(options) {
  const parts = [];
  for await (const part of streamText(options).fullStream) parts.push(part);
  return parts;
}

const textOf = (parts) => parts.map((part) => (part.type === "text-delta" ? part.text : "")).join("");
const adding = (extra) => ({ // what these packages have no option for goes in by their own `fetch`
  fetch: (url, init) => fetch(url, { ...init, body: JSON.stringify({ ...JSON.parse(init.body), ...extra }) }),
});
const calculator = () => tool({
  description: "calculates", inputSchema: jsonSchema(PARAMETERS), execute: ({ expression }) => (expression === "6*7" ? "42" : "?"),
});

test("text", () => each(async (model) => {
  const parts = await partsOf(asked(model(TEXT)));
  same([textOf(parts), parts.at(-1).finishReason], [WORDS, "stop"]);
  same((await generateText(asked(model(TEXT)))).text, WORDS);
}));

test("own tools", () => each(async (model) => {
  const options = () => asked(model(CALLING), { tools: { calculator: calculator() }, stopWhen: upTo(3) });
  const parts = await partsOf(options());
  same([textOf(parts), parts.filter((part) => part.type === "tool-result").map((part) => part.output)], [CALLED.join(""), ["42"]]);
  const made = await generateText(options());
  same([made.steps.map((step) => step.text), made.steps[0].toolCalls.length], [CALLED, 1]);
}));

test("server's tools", () => each(async (model) => {
  const parts = await partsOf(asked(model(CALLING)));
  same(textOf(parts), CALLED.join(""));
  same(parts.filter((part) => part.type === "tool-call" && !part.providerExecuted), []);
}, "first", adding({ enable_tools: true })));

test("usage", () => each(async (model) => {
  const streamed = streamText(asked(model("acme")));
  await streamed.consumeStream();
  for (const usage of [await streamed.usage, (await generateText(asked(model("acme")))).usage]) {
    same([usage.inputTokens, usage.outputTokens, usage.totalTokens], [1000, 200, 1200]);
    same([usage.inputTokenDetails.cacheReadTokens, usage.outputTokenDetails.reasoningTokens], [400, 150]);
  }
}));

test("thinking", () => each(async (model, name) => {
  const more = name === "responses" ? { providerOptions: { openai: { reasoningSummary: "auto", forceReasoning: true } } } : {};
  const parts = await partsOf(asked(model("acme"), more));
  same(parts.map((part) => (part.type === "reasoning-delta" ? part.text : "")).join(""), THOUGHT);
  same([textOf(parts), parts.some((part) => part.type === "reasoning-start")], ["pictures: 0", true]);
  same((await generateText(asked(model("acme"), more))).reasoningText, THOUGHT);
}));

test("images", () => each(async (model) => {
  const bytes = Buffer.from(PICTURE.split(",")[1], "base64");
  const content = [{ type: "text", text: "what is it?" }, { type: "file", data: bytes, mediaType: "image/png" }];
  const { text } = await generateText({ model: model("acme"), maxRetries: 0, messages: [{ role: "user", content }] });
  same(text, "pictures: 1");
}));

test("errors before", async () => {
  await each(async (model) => {
    const error = await rejects(() => generateText(asked(model("no-such-model"))));
    same([error.statusCode, error.isRetryable], [404, false]);
    const parts = await partsOf(asked(model("no-such-model")));
    same(parts.filter((part) => part.type === "error").map((part) => part.error.statusCode), [404]);
  });
  await each(async (model) => {
    same((await rejects(() => generateText(asked(model(TEXT))))).statusCode, 401);
  }, "first", { apiKey: "wrong" });
});

test("errors in the stream", () => each(async (model) => {
  const parts = await partsOf(asked(model(BROKEN)));
  same([parts.some((part) => part.type === "error"), parts.at(-1).finishReason !== "stop"], [true, true]);
}));

/** A stream of which a piece of text has come: its id, and what reads on. */
async function begun(pick, edge = "first", more = {}) {
  let id;
  const seeing = { fetch: async (...args) => {
    const answer = await fetch(...args);
    id = answer.headers.get("x-stream-id");
    return answer;
  } }; // prettier-ignore
  const reading = streamText(asked(dialects(edge, seeing)[pick](LONG), more)).fullStream[Symbol.asyncIterator]();
  while ((await reading.next()).value.type !== "text-delta");
  const rest = async () => {
    const parts = [];
    for (let next = await reading.next(); !next.done; next = await reading.next()) parts.push(next.value);
    return parts;
  };
  return { id, rest };
}

test("cancel", async () => {
  for (const name of ["chat", "responses"]) {
    const { id, rest } = await begun(name);
    await ask("POST", `/api/streams/${id}/cancel`);
    const parts = await rest();
    // Of a response that was cancelled @ai-sdk/openai makes `stop`: its API has no reason for it (docs/ai-sdk.md).
    if (name === "chat") same(parts.some((part) => part.type === "error"), true);
    await untilState(id, "cancelled");
  }
});

test("disconnect", async () => {
  for (const name of ["chat", "responses"]) {
    const gone = new AbortController();
    const { id } = await begun(name, "first", { abortSignal: gone.signal });
    gone.abort();
    await untilState(id, "cancelled"); // after its grace
  }
});

test("attach", () => each(async (model) => {
  const slow = () => asked(model("scripted?tokens=60&interval_ms=30"), { headers: { "Idempotency-Key": key } });
  const key = `conformance-${Math.random()}`;
  const gone = new AbortController();
  const reading = streamText({ ...slow(), abortSignal: gone.signal }).textStream[Symbol.asyncIterator]();
  await reading.next();
  gone.abort();
  same(textOf(await partsOf(slow())), words(60));
}));

test("silence", () => each(async (model) => {
  same(textOf(await partsOf(asked(model(SILENT)))), words(2));
}));

test("drain", async () => {
  const all = await Promise.all(["chat", "responses"].map((name) => begun(name, "drained")));
  say({ drain: true });
  for (const { id, rest } of all) {
    const end = await rest().then((parts) => parts, () => []);
    same(end.some((part) => part.type === "finish" && part.finishReason === "stop"), false);
    same(end.length === 0 || end.some((part) => part.type === "error"), true);
    await ask("POST", `/api/streams/${id}/cancel`);
  }
});

test("read elsewhere", async () => {
  let id;
  const seeing = { fetch: async (...args) => {
    const answer = await fetch(...args);
    id = answer.headers.get("x-stream-id");
    return answer;
  } }; // prettier-ignore
  const parts = await partsOf(asked(dialects("first", seeing).chat(TEXT)));
  say({ read: id, text: textOf(parts) });
});

test("page", async () => {
  const { text } = await program("ai-sdk.md", 1);
  same(text, WORDS);
});

await runAll();
