/**
 * The chat page, put together: hands on one side, the conversation and the client on the other.
 */

import * as address from "./address.js";
import { createClient } from "./client/client.js";
import { Conversation, Turn, newKey } from "./conversation.js";
import { byId } from "./elements.js";
import * as keys from "./keys.js";
import { Models } from "./models.js";
import { Reading } from "./reading.js";
import { BASE } from "./base.js";
import { keep, recall } from "./storage.js";
import { TurnView } from "./turn_view.js";
import { Wires } from "./wires.js";

const FOLLOW_PX = 80; // so near its end, the log follows the answer
const PATIENCE_MS = 5 * 60_000; // for a server that was there: it has given this page
const TRANSPORT = "tokenrelay.transport";

const [log, box, state, stop, send] = ["log", "box", "state", "stop", "send"].map(byId);
const conversation = new Conversation();
const models = new Models(byId("model"), byId("facts"));
const wires = new Wires();
const views = new Map(); // turn → its view
const readings = new Map(); // turn → its reading, while it lasts
let client = null; // made anew with another key
let clientKey; // the key it was made with
let editing = null; // the turn whose question is in the box; null while a new one is
let isFollowing = true; // who reads at the end stays there; who has scrolled up is left in peace

// -- the client ------------------------------------------------------------------------------------------------------

const transport = () => document.querySelector("input[name=transport]:checked").value;

function theClient() {
  const key = keys.key();
  if (client === null || clientKey !== key) client = createClient({ url: BASE, key, patienceMs: PATIENCE_MS, ...wires.options });
  clientKey = key;
  return client;
}

function read(turn) {
  const reading = new Reading(turn, {
    open: () => (turn.streamId
      ? theClient().resume(turn.streamId, turn.lastId, { transport: transport() })
      : theClient().chat(conversation.requestOf(turn), { idempotencyKey: turn.key, transport: transport() })),
    show: (text) => show(turn, text),
    askForKey: () => keys.ask(clientKey),
  });
  readings.set(turn, reading);
  reading.start();
}

// -- what is seen ----------------------------------------------------------------------------------------------------

function show(turn, text) {
  learnId(turn);
  views.get(turn).update(text);
  if (turn.end) {
    readings.delete(turn);
    conversation.save();
  }
  report();
  follow();
}

let knownId = null; // of the newest turn, as the address bar has it

function learnId(turn) {
  if (!turn.streamId || turn.streamId === knownId) return;
  knownId = turn.streamId;
  conversation.save();
  address.show({ model: models.chosen, streamId: turn.streamId });
}

/** The connection's state; each change is read aloud, so it changes only when there is something to say. */
function report() {
  const reading = readings.get(conversation.live);
  const words = reading ? reading.words : "Ready";
  if (state.textContent !== words) state.textContent = words;
  state.classList.toggle("live", reading !== undefined);
  state.classList.toggle("troubled", reading?.isTroubled ?? false);
  log.setAttribute("aria-busy", String(reading !== undefined)); // a screen reader reads an answer once, when it is whole
  byId("welcome").hidden = conversation.turns.length > 0;
  byId("drop").disabled = reading === undefined;
  showNextTry(reading);
  if (!reading && document.activeElement === stop) box.focus();
  stop.hidden = reading === undefined;
  send.hidden = reading !== undefined;
}

/** Counts down by the second, without being read aloud each time. */
function showNextTry(reading) {
  const words = reading?.nextTry ?? "";
  if (byId("next").textContent !== words) byId("next").textContent = words;
  byId("next").hidden = words === "";
  byId("retry").hidden = !reading?.isWaiting;
}
setInterval(() => showNextTry(readings.get(conversation.live)), 500);

function follow() {
  if (isFollowing) log.scrollTop = log.scrollHeight;
}

/** Blocks that come into view get their real height only then. */
const growth = new ResizeObserver(follow);

function add(turn) {
  const view = new TurnView(turn, { edit, again });
  views.set(turn, view);
  conversation.add(turn);
  log.append(view.element);
  growth.observe(view.element);
  if (!turn.end) read(turn);
  isFollowing = true;
  report();
  follow();
}

function remove(gone) {
  for (const turn of gone) {
    readings.get(turn)?.detach();
    readings.delete(turn);
    growth.unobserve(views.get(turn).element);
    views.get(turn).element.remove();
    views.delete(turn);
  }
}

// -- the conversation ------------------------------------------------------------------------------------------------

function ask(question, model = models.chosen) {
  if (!question.trim() || conversation.live) return false;
  if (editing !== null) remove(conversation.cutFrom(editing));
  stopEditing();
  add(new Turn({ key: newKey(), question, model }));
  return true;
}

function again(turn) {
  if (conversation.live) return;
  remove(conversation.cutFrom(turn));
  ask(turn.question);
}

function edit(turn) {
  if (conversation.live) return;
  editing = turn;
  byId("editing").hidden = false;
  box.value = turn.question;
  fitBox();
  box.focus();
}

function stopEditing() {
  if (editing !== null) box.value = "";
  editing = null;
  byId("editing").hidden = true;
  fitBox();
}

function startAfresh() {
  remove(conversation.turns);
  conversation.clear();
  stopEditing();
  knownId = null;
  address.show({ model: models.chosen, streamId: null });
  report();
  box.focus();
}

function stopNow() {
  readings.get(conversation.live)?.stop();
  conversation.save();
  report();
}

/** The turns of before a reload, and the answer that the address links to. */
function restore() {
  const linked = address.linkedStream();
  for (const turn of Conversation.saved()) add(turn);
  if (linked && !conversation.turns.some(({ streamId }) => streamId === linked)) add(new Turn({ streamId: linked }));
  knownId = linked;
}

// -- hands -----------------------------------------------------------------------------------------------------------

function fitBox() {
  box.style.height = "auto"; // by script, which the policy allows; a style attribute it would not
  box.style.height = `${box.scrollHeight + 2}px`;
}

byId("form").onsubmit = (event) => {
  event.preventDefault();
  if (ask(box.value)) box.value = "";
  fitBox();
};
box.onkeydown = (event) => {
  // While an input method composes, Enter chooses a word. Safari ends the composition before it tells of the key, which
  // then still has the code 229 (UI Events, section 8.3; WebKit bug 165004).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  byId("form").requestSubmit();
};
box.oninput = fitBox;
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || event.keyCode === 229 || byId("ask").open) return;
  if (editing !== null) stopEditing();
  else if (conversation.live) stopNow();
});
stop.onclick = stopNow;
byId("fresh").onclick = startAfresh;
byId("leave").onclick = stopEditing;
byId("retry").onclick = () => readings.get(conversation.live)?.retryNow();
byId("drop").onclick = () => wires.cut();
byId("model").addEventListener("change", () => address.show({ model: models.chosen, streamId: knownId }));
for (const suggestion of document.querySelectorAll("#welcome button")) suggestion.onclick = () => ask(suggestion.textContent);
for (const choice of document.querySelectorAll("input[name=transport]")) {
  choice.checked = choice.value === (recall(TRANSPORT) ?? "auto");
  choice.onchange = () => {
    keep(TRANSPORT, choice.value);
    if (choice.value !== "auto") for (const reading of readings.values()) reading.use(choice.value);
  };
}
let lastTop = 0; // of what is seen
log.addEventListener("scroll", () => {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < FOLLOW_PX;
  if (isAtEnd || log.scrollTop < lastTop) isFollowing = isAtEnd; // what grows below is no reason to stay
  lastTop = log.scrollTop;
}, { passive: true });
addEventListener("online", report);
addEventListener("offline", report);

models.choose(address.namedModel());
restore();
report();
box.focus();
models.load(); // asks for a key now, not after the first question has been typed
keys.fetchWithKey("/api/streams").catch(() => {});
