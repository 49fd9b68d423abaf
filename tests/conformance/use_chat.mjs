// `useChat` of @ai-sdk/react in a real React (rendered to nothing) over `DefaultChatTransport`, any major of `ai` from 5.

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from "ai";
import { createElement } from "react";
import { create } from "react-test-renderer";
import {
  BROKEN, CALLED, CALLING, LONG, PARAMETERS, PICTURE, TEXT, SILENT, THOUGHT, WORDS, ask, given, program, runAll, same, say, sleep, test,
  until, untilState, words,
} from "./telling.mjs";

console.error = () => {}; // React says that its renderer for tests is old
let made = 0;
const newId = () => `a b/\u00e4?#% ${process.pid} ${++made}`;

/** A page with one chat. `page.chat` is what the hook gave last; `page.id` the stream of the newest answer. `hook` goes
 * to `useChat`. */
function open(body = {}, { edge = "first", api = "/api/chat", key = given.key, id = newId(), ...hook } = {}) {
  const page = { chatId: id };
  const transport = new DefaultChatTransport({
    api: given[edge] + api,
    headers: { Authorization: `Bearer ${key}` },
    body: { model: TEXT, ...body },
    fetch: async (...args) => {
      const answer = await fetch(...args);
      page.id = answer.headers.get("x-stream-id") ?? page.id;
      page.status = answer.status;
      return answer;
    },
  });
  function Page() {
    page.chat = useChat({ id, transport, ...hook, onToolCall: hook.onToolCall && ((call) => hook.onToolCall(page, call)) });
    return null;
  }
  const root = create(createElement(Page));
  page.close = () => root.unmount();
  return page;
}

const partsOf = (page) => page.chat.messages.at(-1)?.parts ?? [];
const textOf = (page) => partsOf(page).map((part) => (part.type === "text" ? part.text : "")).join("");
const idle = (page) => until(() => page.chat && ["ready", "error"].includes(page.chat.status) && page.chat.messages.length, "idle");
const begun = (page) => until(() => page.chat?.messages.at(-1)?.role === "assistant" && textOf(page), "begun");

async function asked(page, message = { text: "hi" }) {
  await until(() => page.chat, "mounted");
  await page.chat.sendMessage(message);
  await idle(page);
  return page;
}

test("text", async () => {
  for (const api of ["/api/chat", "/api/ui/chat"]) {
    const page = await asked(open({}, { api }));
    same([page.chat.status, textOf(page)], ["ready", WORDS]);
    await asked(page, { text: "and?" });
    same([page.chat.messages.map((message) => message.role), textOf(page)], [["user", "assistant", "user", "assistant"], WORDS]);
    await page.chat.regenerate();
    await until(() => page.chat.status === "ready" && textOf(page) === WORDS, "another answer");
    same(page.chat.messages.length, 4);
  }
});

test("own tools", async () => {
  const tools = [{ type: "function", function: { name: "calculator", parameters: PARAMETERS } }];
  const page = open({ model: CALLING, tools }, {
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    onToolCall: (at, { toolCall }) => {
      const give = at.chat.addToolOutput ?? at.chat.addToolResult;
      void give({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output: toolCall.input.expression === "6*7" ? "42" : "?" });
    },
  });
  await asked(page);
  await until(() => page.chat.status === "ready" && textOf(page).endsWith("w8 "), "the second round");
  same(page.chat.messages.map((message) => message.role), ["user", "assistant"]);
  same(textOf(page), CALLED.join(""));
  const [call] = partsOf(page).filter((part) => part.type === "tool-calculator");
  same([call.state, call.output], ["output-available", "42"]);
});

test("server's tools", async () => {
  const page = await asked(open({ model: CALLING, enable_tools: true }));
  same(textOf(page), CALLED.join(""));
  const [call] = partsOf(page).filter((part) => part.type === "dynamic-tool");
  same([call.toolName, call.state, call.output], ["calculator", "output-available", "42"]);
  await asked(page, { text: "and?" }); // the call of before goes back with the messages
  same(page.chat.status, "ready");
});

test("usage", async () => {
  const page = await asked(open({ model: "acme", stream_options: { include_usage: true } }));
  const usage = { inputTokens: 1000, outputTokens: 200, totalTokens: 1200, cachedInputTokens: 400, reasoningTokens: 150 };
  same(page.chat.messages.at(-1).metadata, { usage: { ...usage, costUsd: Number(given.cost_usd) } });
  same((await asked(open({ model: "acme" }))).chat.messages.at(-1).metadata, undefined);
});

test("thinking", async () => {
  const page = await asked(open({ model: "acme" }));
  const kept = partsOf(page).filter((part) => part.type === "reasoning" || part.type === "text");
  same(kept.map((part) => [part.type, part.text, part.state]), [["reasoning", THOUGHT, "done"], ["text", "pictures: 0", "done"]]);
  await asked(page, { text: "and?" });
  same(page.chat.status, "ready");
});

test("images", async () => {
  const files = [{ type: "file", mediaType: "image/png", url: PICTURE, filename: "a.png" }];
  const page = await asked(open({ model: "acme" }), { text: "what is it?", files });
  same(textOf(page), "pictures: 1");
  const refused = await asked(open({}), { text: "what is it?", files });
  same([refused.status, refused.chat.error.message.split(":")[0]], [422, "messages[0].parts[0]"]);
});

test("errors before", async () => {
  const page = await asked(open({ model: "no-such-model" }));
  same([page.status, page.chat.status, page.chat.error.message.startsWith("model: ")], [422, "error", true]);
  const stranger = await asked(open({}, { api: "/api/ui/chat", key: "wrong" }));
  same([stranger.status, stranger.chat.error.message.includes("{")], [401, false]);
  const untold = await asked(open({}, { key: "wrong" })); // whose body is not read says nothing of its dialect
  same([untold.status, JSON.parse(untold.chat.error.message).error_code], [401, "UNAUTHORIZED"]);
});

test("errors in the stream", async () => {
  const page = await asked(open({ model: BROKEN }));
  same([page.chat.status, textOf(page)], ["error", words(5)]);
  same(page.chat.error.message, "the scripted model failed as it was asked to");
});

test("cancel", async () => {
  const page = open({ model: LONG });
  const sent = asked(page);
  await begun(page);
  await ask("POST", `/api/chat/${encodeURIComponent(page.chatId)}/stop`);
  await sent;
  await untilState(page.id, "cancelled");
  const back = open({}, { id: page.chatId, resume: true });
  await until(() => back.status === 204, "204");
  same([back.chat.status, back.chat.messages], ["ready", []]);
});

test("disconnect", async () => {
  const page = open({ model: LONG });
  const sent = asked(page);
  await begun(page);
  await page.chat.stop();
  await sent;
  await sleep(2000); // longer than the grace of other fronts
  same((await ask("GET", `/api/streams/${page.id}`)).state, "running");
  await ask("POST", `/api/streams/${page.id}/cancel`);
});

test("replay", async () => {
  const page = open({ model: "scripted?tokens=60&interval_ms=30" });
  const sent = asked(page);
  await begun(page);
  const [question] = page.chat.messages;
  const again = open({}, { id: page.chatId, resume: true, edge: "second", messages: [question] });
  await begun(again);
  await Promise.all([sent, until(() => again.chat.status === "ready", "ready")]);
  same([textOf(page), textOf(again), again.chat.messages.length], [words(60), words(60), 2]);
  const late = open({}, { id: page.chatId, resume: true, edge: "second", messages: [question] });
  await until(() => late.chat?.messages.length === 2 && late.chat.status === "ready", "replayed");
  same(textOf(late), words(60));
  const nobody = open({}, { resume: true });
  await until(() => nobody.status === 204, "204");
  same(nobody.chat.status, "ready");
});

test("silence", async () => {
  same(textOf(await asked(open({ model: SILENT }))), words(2));
});

test("drain", async () => {
  const page = open({ model: LONG }, { edge: "drained" });
  const sent = asked(page);
  await begun(page);
  say({ drain: true });
  await sent;
  same(page.chat.status, "error");
  await ask("POST", `/api/streams/${page.id}/cancel`);
});

test("read elsewhere", async () => {
  const page = await asked(open());
  say({ read: page.id, text: textOf(page) });
});

test("page", async () => {
  const { useRelay } = await program("ai-sdk.md", 0);
  const page = {};
  function Page() {
    page.chat = useRelay("chat of the page");
    return null;
  }
  create(createElement(Page));
  await asked(page);
  same(textOf(page), WORDS);
});

await runAll();
