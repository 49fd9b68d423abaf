// openai-node, of any major: both dialects, streamed and not.

import OpenAI from "openai";
import {
  BROKEN, CALLED, CALLING, LONG, PARAMETERS, PICTURE, SILENT, TEXT, THOUGHT, WORDS, ask, given, rejects, runAll, same, say,
  sleep, test, untilState, words,
} from "./telling.mjs";

const HI = [{ role: "user", content: "hi" }];
const FUNCTION = { name: "calculator", parameters: PARAMETERS };
const client = (edge = "first", apiKey = given.key) =>
  new OpenAI({ baseURL: `${given[edge]}/v1`, apiKey, maxRetries: 0, timeout: 60_000 });
const chat = (more = {}, edge = "first", options = {}) =>
  client(edge).chat.completions.create({ model: TEXT, messages: HI, ...more }, options);
const respond = (more = {}, edge = "first", options = {}) =>
  client(edge).responses.create({ model: TEXT, input: "hi", ...more }, options);
/** The helpers that wait for the whole: openai 4 has them elsewhere. */
const helpers = () => (client().chat.completions.stream ? client().chat : client().beta.chat).completions;
const textIn = (chunks) => chunks.flatMap((chunk) => chunk.choices.map((c) => c.delta.content ?? "")).join("");
const toldIn = (events) => events.map((e) => (e.type === "response.output_text.delta" ? e.delta : "")).join("");
const outputText = (response) => // a stored response that is retrieved has no `output_text` in every major
  response.output.flatMap((item) => (item.type === "message" ? item.content.map((c) => c.text) : [])).join("");

async function all(stream) {
  const found = [];
  for await (const each of await stream) found.push(each);
  return found;
}

/** A stream of which a piece of text has come: its id, itself, and what reads on. */
async function begun(more = {}, edge = "first", options = {}) {
  const made = await chat({ model: LONG, stream: true, ...more }, edge, options).withResponse();
  const reading = made.data[Symbol.asyncIterator]();
  while (!textIn([(await reading.next()).value]));
  const rest = async () => {
    while (!(await reading.next()).done);
  };
  return { id: made.response.headers.get("x-stream-id"), stream: made.data, rest };
}

test("text", async () => {
  const chunks = await all(chat({ stream: true }));
  same(textIn(chunks), WORDS);
  same(chunks.at(-1).choices[0].finish_reason, "stop");
  same((await chat()).choices[0].message.content, WORDS);
  const runner = helpers().stream({ model: TEXT, messages: HI });
  same(await runner.finalContent(), WORDS);
  const events = await all(respond({ stream: true }));
  same(toldIn(events), WORDS);
  same(outputText(await respond()), WORDS);
  same(outputText(await client().responses.stream({ model: TEXT, input: "hi" }).finalResponse()), WORDS);
  same((await all(client().models.list())).some((model) => model.id === "scripted"), true);
});

test("own tools", async () => {
  const tools = [{ type: "function", function: FUNCTION }];
  const streamed = await helpers().stream({ model: CALLING, messages: HI, tools }).finalChatCompletion();
  for (const completion of [streamed, await chat({ model: CALLING, tools })]) {
    const [choice] = completion.choices;
    same([choice.finish_reason, choice.message.content], ["tool_calls", CALLED[0]]);
    const [call] = choice.message.tool_calls;
    same([call.function.name, JSON.parse(call.function.arguments)], ["calculator", { expression: "6*7" }]);
    const result = { role: "tool", tool_call_id: call.id, content: "42" };
    const rest = await chat({ model: CALLING, tools, messages: [...HI, choice.message, result] });
    same(rest.choices[0].message.content, CALLED[1]);
  }
  let ran = 0;
  const run = { ...FUNCTION, function: () => String(++ran), parse: JSON.parse };
  const runner = helpers().runTools({ model: CALLING, messages: HI, stream: true, tools: [{ type: "function", function: run }] });
  same([await runner.finalContent(), ran], [CALLED[1], 1]);
  const own = [{ type: "function", strict: false, ...FUNCTION }];
  const { response } = (await all(respond({ model: CALLING, tools: own, stream: true }))).at(-1);
  const [said, call] = response.output;
  same([call.type, call.name], ["function_call", "calculator"]);
  const output = { type: "function_call_output", call_id: call.call_id, output: "42" };
  same(outputText(await respond({ model: CALLING, tools: own, input: [...HI, said, call, output] })), CALLED[1]);
  const named = [said, call].map(({ id }) => ({ type: "item_reference", id }));
  same(outputText(await respond({ model: CALLING, tools: own, input: [...HI, ...named, output] }, "second")), CALLED[1]);
});

test("server's tools", async () => {
  const chunks = await all(chat({ model: CALLING, stream: true, enable_tools: true }));
  same(textIn(chunks), CALLED.join(""));
  same(chunks.filter((chunk) => chunk.choices[0]?.delta.tool_calls), []);
  const events = await all(respond({ model: CALLING, stream: true, enable_tools: true }));
  same(events.at(-1).response.output.map((item) => item.type), ["message", "mcp_call", "message"]);
  same(events.at(-1).response.output[1].output, "42");
});

test("usage", async () => {
  const check = (usage, input, output) => {
    same([usage[input], usage[output], usage.total_tokens], [1000, 200, 1200]);
    same([usage[`${input}_details`].cached_tokens, usage[`${output}_details`].reasoning_tokens], [400, 150]);
    same(usage.cost_usd, Number(given.cost_usd));
  };
  const chunks = await all(chat({ model: "acme", stream: true, stream_options: { include_usage: true } }));
  for (const usage of [chunks.at(-1).usage, (await chat({ model: "acme" })).usage]) check(usage, "prompt_tokens", "completion_tokens");
  const streamed = (await all(respond({ model: "acme", stream: true }))).at(-1).response;
  for (const { usage } of [streamed, await respond({ model: "acme" })]) check(usage, "input_tokens", "output_tokens");
});

test("thinking", async () => {
  const chunks = await all(chat({ model: "acme", stream: true }));
  same(chunks.map((chunk) => chunk.choices[0]?.delta.reasoning_content ?? "").join(""), THOUGHT);
  same((await chat({ model: "acme" })).choices[0].message.reasoning_content, THOUGHT);
  const events = await all(respond({ model: "acme", stream: true, reasoning: { summary: "auto" } }));
  same(events.map((e) => (e.type === "response.reasoning_summary_text.delta" ? e.delta : "")).join(""), THOUGHT);
  const response = await client().responses.stream({ model: "acme", input: "hi", reasoning: { summary: "auto" } }).finalResponse();
  same([response.output[0].type, response.output[0].summary[0].text], ["reasoning", THOUGHT]);
});

test("images", async () => {
  const content = [{ type: "text", text: "what is it?" }, { type: "image_url", image_url: { url: PICTURE } }];
  same((await chat({ model: "acme", messages: [{ role: "user", content }] })).choices[0].message.content, "pictures: 1");
  const parts = [{ type: "input_text", text: "what is it?" }, { type: "input_image", image_url: PICTURE, detail: "auto" }];
  same(outputText(await respond({ model: "acme", input: [{ role: "user", content: parts }] })), "pictures: 1");
  same((await rejects(() => chat({ messages: [{ role: "user", content }] }))).param, "messages[0].content[1]");
});

test("errors before", async () => {
  for (const ask of [chat, respond]) {
    const error = await rejects(() => ask({ model: "no-such-model", stream: true }));
    same([error.status, error.code, error.param], [404, "model_not_found", "model"]);
  }
  for (const name of ["max_tokens", "max_completion_tokens"]) same((await rejects(() => chat({ [name]: 0 }))).param, name);
  same((await rejects(() => respond({ conversation: "x" }))).param, "conversation");
  const stranger = await rejects(() => client("first", "wrong").chat.completions.create({ model: TEXT, messages: HI }));
  same([stranger.status, stranger.code], [401, "invalid_api_key"]);
  same((await rejects(() => chat({ model: BROKEN }))).code, "provider_error");
});

test("errors in the stream", async () => {
  same((await rejects(() => all(chat({ model: BROKEN, stream: true })))).code, "provider_error");
  const last = (await all(respond({ model: BROKEN, stream: true }))).at(-1);
  same([last.type, last.response.status], ["response.failed", "failed"]);
});

test("cancel", async () => {
  const cancelled = await begun();
  await ask("POST", `/api/streams/${cancelled.id}/cancel`);
  same((await rejects(cancelled.rest)).code, "cancelled");
  const closed = await begun({ on_disconnect: "cancel" });
  closed.stream.controller.abort();
  await untilState(closed.id, "cancelled");
  const made = await respond({ model: LONG, background: true });
  same((await client("second").responses.cancel(made.id)).status, "cancelled");
  same((await client().responses.retrieve(made.id)).status, "cancelled");
});

test("disconnect", async () => {
  const left = await begun();
  left.stream.controller.abort();
  await untilState(left.id, "cancelled");
  const stream = await respond({ model: LONG, background: true, stream: true });
  let id;
  for await (const event of stream) {
    id = event.response.id;
    break; // closes it
  }
  await sleep(2000); // longer than the grace of those that do not run in the background
  same((await client().responses.retrieve(id)).status, "in_progress");
  await client().responses.cancel(id);
});

test("resume", async () => {
  const chunks = await all(chat({ stream: true }));
  const numbers = chunks.map((chunk) => chunk.sequence_number).filter((number) => number !== undefined);
  for (const after of numbers.slice(0, -1)) {
    const path = `/chat/completions/${chunks[0].id}?stream=true&starting_after=${after}`;
    const rest = await all(client("second").get(path, { stream: true }));
    same(textIn(chunks.filter((chunk) => (chunk.sequence_number ?? 0) <= after)) + textIn(rest), WORDS);
  }
  const events = await all(respond({ stream: true }));
  same(events.map((event) => event.sequence_number), [...events.keys()]);
  const { id } = events[0].response;
  const other = client("second").responses;
  for (const number of events.keys()) {
    const rest = await all(other.retrieve(id, { stream: true, starting_after: number }));
    same(rest, events.slice(number + 1));
  }
  same(await all(other.retrieve(id, { stream: true })), events);
  same((await rejects(() => other.retrieve(id, { stream: true, starting_after: 10_000 }))).status, 400);
});

test("attach", async () => {
  const model = "scripted?tokens=60&interval_ms=30";
  const options = { headers: { "Idempotency-Key": `conformance-${Date.now()}-${process.pid}` } };
  const first = await begun({ model }, "first", options);
  first.stream.controller.abort();
  same(textIn(await all(chat({ model, stream: true }, "second", options))), words(60));
});

test("silence", async () => {
  const { id, rest } = await begun({ model: SILENT });
  const path = `/chat/completions/chatcmpl-${id}?stream=true&starting_after=1`;
  const again = all(client("second").get(path, { stream: true })); // its events have ids, which makes comments dangerous
  const events = all(respond({ model: SILENT, stream: true }));
  await rest();
  same([textIn(await again), toldIn(await events)], [words(2), words(2)]);
});

test("drain", async () => {
  const { rest } = await begun({}, "drained");
  const reading = (await respond({ model: LONG, background: true, stream: true }, "drained"))[Symbol.asyncIterator]();
  const { id } = (await reading.next()).value.response;
  say({ drain: true });
  await rejects(rest);
  await rejects(async () => {
    while (!(await reading.next()).done);
  });
  await client().responses.cancel(id);
});

test("read elsewhere", async () => {
  const made = await chat({ stream: true }).withResponse();
  say({ read: made.response.headers.get("x-stream-id"), text: textIn(await all(made.data)) });
});

await runAll();
