/**
 * Tokenrelay in React: a hook, and a boundary that keeps what was received. Knows no wire; needs React 18 or later.
 */

import {
  Component, createContext, createElement, useContext, useEffect, useState, useSyncExternalStore,
} from "react";

import { createClient } from "./client.js";
import { ChatView } from "./view.js";

export { TokenrelayError } from "./errors.js";

/** The boundary around a component; null outside of any. */
const Boundary = createContext(null);

/**
 * One answer at a time, in a component. Two components that `resume` one stream each read it on their own.
 *
 * @param {import("./react.js").StreamingChatOptions} [options] `client`, or the options of `createClient`; `body`:
 *   fields of each question; `storageKey`: where sessionStorage keeps the stream under way for a reload
 * @returns {import("./react.js").StreamingChat}
 */
export function useStreamingChat(options = {}) {
  // Making a view opens nothing, so strict mode may make two. Another server, caller or storage key means another view.
  const identity = identityOf(options);
  const [held, hold] = useState(() => ({ identity, view: viewOf(options) }));
  let { view } = held;
  if (held.identity.some((part, index) => !Object.is(part, identity[index]))) {
    view = viewOf(options);
    hold({ identity, view });
  }
  // Noted while rendering: a component that fails in its first rendering never comes to its effects.
  useContext(Boundary)?.note(view);
  const snapshot = useSyncExternalStore(view.subscribe, view.getSnapshot, view.getSnapshot);
  useEffect(() => view.setDefaults(options.body));
  useEffect(() => {
    view.mount();
    return () => view.unmount();
  }, [view]);
  return { ...snapshot, sendMessage: view.send, stop: view.stop, resume: view.resume };
}

/** What a view is made for. Functions are made anew with each rendering, and tell nothing: those given first stay. */
function identityOf({ client, storageKey, url, key, ticket, transport, patienceMs, firstPatienceMs }) {
  if (client !== undefined) return [client, storageKey];
  const given = [url, key, ticket, transport, patienceMs, firstPatienceMs];
  return [client, storageKey, ...given.map((value) => (typeof value === "function" ? "function" : value))];
}

const viewOf = (options) => new ChatView(options.client ?? createClient(options), options);

/**
 * Catches what its children throw while rendering an answer, and shows the text received all the same.
 *
 * Props: `fallback({error, text, retry})` draws it instead of the default; `text` replaces what the hooks below have
 * received, for a hook that stands above; `onError(error)` is told.
 */
export class StreamBoundary extends Component {
  state = { error: null };
  #views = new Set(); // of the hooks below, as long as their components live
  #kept = ""; // text at the time of the fault

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidCatch(error) {
    this.props.onError?.(error);
  }

  /** @param {ChatView} view */
  note = (view) => {
    for (const known of this.#views) if (known.isGone) this.#views.delete(known);
    this.#views.add(view);
  };

  retry = () => {
    this.#views.clear();
    this.#kept = "";
    this.setState({ error: null });
  };

  render() {
    const { error } = this.state;
    if (error === null) return createElement(Boundary.Provider, { value: this }, this.props.children);
    // Rendered before the effects of the lost components are undone, and again after: what was longer counts.
    const received = this.props.text ?? [...this.#views].map((view) => view.text).filter(Boolean).join("\n\n");
    if (received.length > this.#kept.length) this.#kept = received;
    const shown = { error, text: this.#kept, retry: this.retry };
    return (this.props.fallback ?? plainly)(shown);
  }
}

function plainly({ text, retry }) {
  return createElement("div", { role: "alert" },
    createElement("p", null, "This answer could not be shown as it should be. Here is its text:"),
    createElement("pre", { style: { whiteSpace: "pre-wrap" } }, text),
    createElement("button", { type: "button", onClick: retry }, "Try again"));
}
