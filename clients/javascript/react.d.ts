import { Component, ReactNode } from "react";

import { ChatBody, Client, ClientOptions, StreamEvent, TokenrelayError } from "./client.js";

export { TokenrelayError } from "./client.js";

export type Status = "idle" | "connecting" | "queued" | "streaming" | "reconnecting" | "done" | "failed";

export interface Tool {
  readonly id: string;
  readonly name: string;
  /** Empty while `inputText` is written. */
  readonly input: Record<string, unknown>;
  /** The arguments as far as they are written, where `show` has `tool_input`; missing once `input` is whole. */
  readonly inputText?: string;
  /** Missing until the tool has answered. */
  readonly result?: string;
  readonly failed: boolean;
}

export interface StreamingChatOptions extends ClientOptions {
  /**
   * Shared by several hooks; else one is made from the other options. Another `client`, `storageKey`, `url`, `key`,
   * `ticket` or `transport` lets go of the answer shown and begins anew; functions and `storage` are read once.
   */
  client?: Client;
  /** Fields of each question, such as `model`. */
  body?: ChatBody;
  /** Under this name the stream under way is kept, and a reload goes on with it. */
  storageKey?: string;
  /** Default: sessionStorage. */
  storage?: Storage;
}

export interface StreamingChat {
  readonly response: string;
  /** What the model told of its thoughts, where `body.show` has `thinking`. */
  readonly thinking: string;
  /** It thinks now, whether or not it tells what. */
  readonly isThinking: boolean;
  readonly isStreaming: boolean;
  readonly status: Status;
  /** A TokenrelayError, or what was wrong with the question (TypeError). */
  readonly error: TokenrelayError | Error | null;
  readonly tools: readonly Tool[];
  /** What a generator of the operator's own told beside the text. */
  readonly data: readonly { readonly name: string; readonly value: unknown }[];
  readonly events: readonly StreamEvent[];
  readonly streamId: string | null;
  /** Asks; gives the text once the answer is over. Never rejects. */
  readonly sendMessage: (message: string | ChatBody, more?: ChatBody) => Promise<string>;
  /** Stops the answer for good. */
  readonly stop: () => void;
  /** Reads a stream that is there already. Never rejects. */
  readonly resume: (streamId: string, after?: number | string) => Promise<string>;
}

export declare function useStreamingChat(options?: StreamingChatOptions): StreamingChat;

export interface StreamBoundaryProps {
  children?: ReactNode;
  fallback?: (fault: { error: unknown; text: string; retry: () => void }) => ReactNode;
  /** Shown in place of what the hooks below have received: for a hook that stands above. */
  text?: string;
  onError?: (error: unknown) => void;
}

/** Catches what its children throw while rendering, and shows the text received all the same. */
export declare class StreamBoundary extends Component<StreamBoundaryProps> {}
